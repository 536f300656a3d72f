package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/httpstore/upload"
)

// progress shows how far a push is: as a bar where a person watches a terminal, as lines otherwise.
// Its hooks are safe for concurrent use.
type progress struct {
	w     io.Writer
	width func() int // columns of the terminal; 0: it is none

	mu      sync.Mutex                  // guards all below
	sizes   map[narinfo.StorePath]int64 // NAR sizes of what is missing
	parts   map[narinfo.StorePath]float64
	total   int64
	settled int
	sent    map[narinfo.StorePath]int64 // bytes of archives that went out
	drawn   time.Time
	shown   bool // there is a bar to be wiped
}

// drawEvery is the least time between two bars.
const drawEvery = 100 * time.Millisecond

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, width: func() int { return 0 }}
	if f, ok := w.(*os.File); ok {
		p.width = func() int {
			size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
			if err != nil {
				return 0
			}
			return max(int(size.Col), 20)
		}
	}
	return p
}

func (p *progress) trace() *upload.Trace {
	return &upload.Trace{Planned: p.planned, Sent: p.sentSome, Done: p.done, Retry: p.retry}
}

func (p *progress) planned(_, missing []*narinfo.Info) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sizes, p.parts = make(map[narinfo.StorePath]int64), make(map[narinfo.StorePath]float64)
	p.sent, p.total, p.settled = make(map[narinfo.StorePath]int64), 0, 0
	for _, info := range missing {
		p.sizes[info.StorePath] = info.NarSize
		p.total += info.NarSize
	}
	p.draw(false)
}

func (p *progress) sentSome(path narinfo.StorePath, sent, size int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[path] = sent
	p.parts[path] = float64(sent) / float64(max(size, 1))
	p.draw(false)
}

func (p *progress) done(path narinfo.StorePath, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settled++
	p.parts[path] = 1
	if err != nil {
		p.print(fmt.Sprintf("failed %s: %v", path, err))
	} else if p.width() == 0 {
		p.print(fmt.Sprintf("pushed %s (%d of %d)", path, p.settled, len(p.sizes)))
	}
	p.draw(p.settled == len(p.sizes))
}

func (p *progress) retry(path narinfo.StorePath, err error, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	what := ""
	if path != "" {
		what = string(path) + ": "
	}
	p.print(fmt.Sprintf("%s%v; trying again in %s", what, err, pause.Round(time.Millisecond)))
}

// line prints a line, above the bar if there is one.
func (p *progress) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.print(fmt.Sprintf(format, args...))
}

// print prints a line. p.mu is held.
func (p *progress) print(text string) {
	p.wipe()
	fmt.Fprintf(p.w, "narserved: %s\n", strings.ReplaceAll(text, "\n", "; "))
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// end leaves no bar behind, and returns how many bytes of archives went out.
func (p *progress) end() (sent int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wipe()
	for _, n := range p.sent {
		sent += n
	}
	return sent
}

func (p *progress) wipe() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

// draw draws the bar, unless it was just drawn and this is not the last. p.mu is held.
func (p *progress) draw(last bool) {
	width := p.width()
	if width == 0 || len(p.sizes) == 0 || !last && time.Since(p.drawn) < drawEvery {
		return
	}
	p.drawn, p.shown = time.Now(), true
	var n float64
	var sent int64
	for path, part := range p.parts {
		n += part * float64(p.sizes[path])
		sent += p.sent[path]
	}
	fraction := n / float64(max(p.total, 1))
	text := fmt.Sprintf(" %3.0f%%  %d of %d paths, %s sent", 100*fraction, p.settled, len(p.sizes), megabytes(sent))
	bar := max(width-len(text)-3, 0)
	full := min(int(fraction*float64(bar)), bar)
	line := "[" + strings.Repeat("#", full) + strings.Repeat(".", bar-full) + "]" + text
	fmt.Fprint(p.w, "\r"+line[:min(len(line), width-1)]+"\x1b[K")
}
