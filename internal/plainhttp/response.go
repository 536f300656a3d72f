package plainhttp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// stallPiece is how much a client must take within the time of SetWriteStall.
const stallPiece = 256 << 10

// smallBody is how much of a body waits for the head and for more, to leave in one piece with them.
const smallBody = 8 << 10

// response is the ResponseWriter of one request.
type response struct {
	c       *conn
	head    bool // the request's method is HEAD
	status  int  // 0 until WriteHeader
	length  int64
	written int64 // of the body
	chunked bool
	noBody  bool // the status allows none
	closing bool // the connection ends with this answer

	stalls bool          // SetWriteStall was called
	stall  time.Duration // 0: never
	err    error         // sticky
}

var (
	_ http.ResponseWriter = (*response)(nil)
	_ io.ReaderFrom       = (*response)(nil)
)

var errBroken = errors.New("plainhttp: the answer ends before its Content-Length")

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header { return w.c.header }

// SetWriteStall cuts the client off when it does not take the next 256 KiB of the answer, or the answer's rest, within d;
// 0 is never. It replaces any write deadline, holds for this answer, and costs nothing for each write.
func (w *response) SetWriteStall(d time.Duration) { w.stalls, w.stall = true, max(d, 0) }

// SetWriteDeadline is for http.ResponseController.
func (w *response) SetWriteDeadline(t time.Time) error {
	w.c.writing.until = t
	return w.c.rwc.SetWriteDeadline(t)
}

// SetReadDeadline is for http.ResponseController. There is no body to read: it does nothing.
func (w *response) SetReadDeadline(time.Time) error { return nil }

// WriteHeader implements http.ResponseWriter. The head leaves with the body's beginning.
func (w *response) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	h := w.c.header
	w.noBody = status < 200 || status == http.StatusNoContent || status == http.StatusNotModified
	if text := h.Get("Content-Length"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			delete(h, "Content-Length")
		} else {
			w.length = n
		}
	}
	if w.length < 0 && !w.noBody && !w.head {
		w.chunked = true
		h["Transfer-Encoding"] = []string{"chunked"}
	}
	if w.c.server.closed.Load() {
		w.closing = true
	}
	if strings.EqualFold(h.Get("Connection"), "close") {
		w.closing = true
	}
	if w.closing {
		h["Connection"] = []string{"close"}
	}
	w.c.out = w.appendHead(w.c.out)
}

func (w *response) appendHead(b []byte) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(w.status), 10)
	b = append(append(append(b, ' '), http.StatusText(w.status)...), "\r\n"...)
	var names [16]string
	sorted := names[:0]
	for name := range w.c.header {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		for _, value := range w.c.header[name] {
			b = append(append(b, name...), ": "...)
			b = append(append(b, oneLine(value)...), "\r\n"...)
		}
	}
	if w.c.header["Date"] == nil {
		b = w.c.server.dates.append(b)
	}
	return append(b, "\r\n"...)
}

// oneLine keeps a value from being taken for the next header.
func oneLine(value string) string {
	if strings.ContainsAny(value, "\r\n") {
		return strings.NewReplacer("\r", " ", "\n", " ").Replace(value)
	}
	return value
}

// Write implements io.Writer.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.err != nil:
		return 0, w.err
	case w.noBody:
		return 0, http.ErrBodyNotAllowed
	case w.length >= 0 && w.written+int64(len(p)) > w.length:
		return 0, http.ErrContentLength
	case w.head || len(p) == 0:
		w.written += int64(len(p))
		return len(p), nil
	}
	var err error
	switch {
	case w.chunked:
		w.c.out = append(strconv.AppendInt(w.c.out, int64(len(p)), 16), "\r\n"...)
		err = w.send(p, []byte("\r\n"))
	case len(w.c.out)+len(p) <= smallBody:
		w.c.out = append(w.c.out, p...)
	default:
		err = w.send(p)
	}
	if err != nil {
		return 0, err
	}
	w.written += int64(len(p))
	return len(p), nil
}

// send writes what waits and then the pieces.
func (w *response) send(pieces ...[]byte) error {
	var room [3][]byte
	buffers := net.Buffers(room[:0])
	if len(w.c.out) > 0 {
		buffers = append(buffers, w.c.out)
	}
	buffers = append(buffers, pieces...)
	w.patiently(func() (int64, error) {
		if len(buffers) == 1 {
			n, err := w.c.rwc.Write(buffers[0])
			buffers[0] = buffers[0][n:]
			return int64(n), err
		}
		return buffers.WriteTo(w.c.rwc)
	})
	w.c.out = w.c.out[:0]
	return w.err
}

// patiently calls write, which goes on where it stopped, until it is done or the client takes too little in too long.
func (w *response) patiently(write func() (int64, error)) {
	for w.err == nil {
		if w.stalls {
			w.c.writing.extend(w.stall, w.c.rwc.SetWriteDeadline)
		}
		n, err := write()
		if err == nil {
			return
		}
		if w.stall <= 0 || n < stallPiece || !errors.Is(err, os.ErrDeadlineExceeded) {
			w.err = err
			w.closing = true
		}
	}
}

// ReadFrom implements io.ReaderFrom. An io.LimitedReader of a file is copied by the kernel.
func (w *response) ReadFrom(r io.Reader) (n int64, err error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	to, tcp := w.c.rwc.(io.ReaderFrom)
	limited, file := limitedFile(r)
	if !tcp || !file || w.head || w.noBody || w.chunked || w.err != nil {
		return io.CopyBuffer(onlyWriter{w}, r, make([]byte, 32<<10))
	}
	if err := w.send(); err != nil {
		return 0, err
	}
	// No more than the declared length goes out; what is left of the file then shows in a read.
	fits := &io.LimitedReader{R: limited.R, N: min(limited.N, w.length-w.written)}
	w.patiently(func() (int64, error) {
		m, err := to.ReadFrom(fits)
		n += m
		w.written += m
		limited.N -= m
		return m, err
	})
	if w.err == nil && limited.N > 0 && w.written == w.length {
		if m, _ := limited.Read(make([]byte, 1)); m > 0 {
			return n, http.ErrContentLength
		}
	}
	return n, w.err
}

func limitedFile(r io.Reader) (*io.LimitedReader, bool) {
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		return nil, false
	}
	_, ok = limited.R.(*os.File)
	return limited, ok
}

type onlyWriter struct{ io.Writer }

// FlushError is for http.ResponseController.
func (w *response) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if len(w.c.out) > 0 && w.err == nil {
		return w.send()
	}
	return w.err
}

// Flush implements http.Flusher.
func (w *response) Flush() { _ = w.FlushError() }

// finish sends what is left when the handler has returned.
func (w *response) finish() error {
	if w.status == 0 {
		if w.c.header.Get("Content-Length") == "" {
			w.c.header["Content-Length"] = []string{"0"}
		}
		w.WriteHeader(http.StatusOK)
	}
	if w.chunked && w.err == nil {
		w.c.out = append(w.c.out, "0\r\n\r\n"...)
	}
	err := w.FlushError()
	if err == nil && !w.head && !w.noBody && w.length >= 0 && w.written != w.length {
		err = errBroken
	}
	return err
}

// dateLine is the Date header, made once a second.
type dateLine struct{ current atomic.Pointer[datedLine] }

type datedLine struct {
	second int64
	text   string
}

func (d *dateLine) append(b []byte) []byte {
	now := time.Now()
	line := d.current.Load()
	if line == nil || line.second != now.Unix() {
		line = &datedLine{now.Unix(), fmt.Sprintf("Date: %s\r\n", now.UTC().Format(http.TimeFormat))}
		d.current.Store(line)
	}
	return append(b, line.text...)
}
