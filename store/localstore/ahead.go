package localstore

import (
	"context"
	"sync"

	"github.com/voidnxlab/nixtrap/internal/buffer"
)

// aheadDepth is how many pieces are read at once, each by a goroutine of its own.
const aheadDepth = 2

// ahead reads small files of a proved path before they are asked for, in pieces of the archive that hold no large file.
// It uses buffers that are to spare and reads nothing where there are none. What it reads is offered, no more:
// of a piece with anything unexpected in it the reader reads those bytes itself, and judges.
type ahead struct {
	s      *Store
	ctx    context.Context // of the reader: its end stops the reading
	o      *object
	next   int64 // offset in the archive of the first byte that no piece is begun for
	end    int64
	pieces []*piece // begun and not yet taken, in order
	wg     sync.WaitGroup
}

// piece is a part of the archive that was read ahead. What is behind done is valid once that is closed.
type piece struct {
	off, size int64
	buf       *[]byte
	done      chan struct{}

	ok bool
}

func (s *Store) newAhead(ctx context.Context, o *object, from, to int64) *ahead {
	a := &ahead{s: s, ctx: ctx, o: o, next: from, end: to}
	a.begin()
	return a
}

// begin starts reading pieces up to the depth.
func (a *ahead) begin() {
	for len(a.pieces) < aheadDepth && a.next < a.end && a.ctx.Err() == nil {
		off, size := a.plan()
		if size == 0 {
			return
		}
		buf := a.s.buffers.GetLarge()
		if buf == nil {
			return
		}
		p := &piece{off: off, size: size, buf: buf, done: make(chan struct{})}
		a.next = off + size
		a.pieces = append(a.pieces, p)
		a.wg.Go(func() {
			defer close(p.done)
			p.ok = p.read(a.ctx, a.o)
		})
	}
}

// plan returns the next run of the archive without a large file, no longer than a buffer.
func (a *ahead) plan() (off, size int64) {
	off, size = a.next, min(a.end-a.next, buffer.Large)
	for _, i := range a.o.large {
		e := a.o.layout.Entry(i)
		switch {
		case e.Offset+e.Size <= off:
		case e.Offset <= off:
			off = e.Offset + e.Size
			size = max(0, min(a.end-off, buffer.Large))
		default:
			return off, min(size, e.Offset-off)
		}
	}
	return off, size
}

// take returns the piece that begins at off, read, or nil if there is none that can be used.
// The caller gives its buffer back.
func (a *ahead) take(off int64) *piece {
	for len(a.pieces) > 0 && a.pieces[0].off < off {
		a.drop()
	}
	if len(a.pieces) == 0 || a.pieces[0].off != off {
		a.next = max(a.next, off)
		a.begin()
		return nil
	}
	p := a.pieces[0]
	<-p.done
	if !p.ok {
		a.drop()
		return nil
	}
	a.pieces = a.pieces[1:]
	a.begin()
	return p
}

// at reports whether a piece begins at off.
func (a *ahead) at(off int64) bool { return len(a.pieces) > 0 && a.pieces[0].off == off }

func (a *ahead) drop() {
	<-a.pieces[0].done
	a.s.buffers.Put(a.pieces[0].buf)
	a.pieces = a.pieces[1:]
}

// close waits for what is being read.
func (a *ahead) close() {
	for len(a.pieces) > 0 {
		a.drop()
	}
	a.wg.Wait()
}

// read fills the piece's buffer, and reports whether all of it comes from the files that were proved.
func (p *piece) read(ctx context.Context, o *object) bool {
	var files fileReader
	if files.begin(o) != nil {
		return false
	}
	defer files.end()
	b := (*p.buf)[:0]
	for seg := range o.layout.Segments(p.off, p.size) {
		if seg.Bytes != nil {
			b = append(b, seg.Bytes...)
			continue
		}
		to := b[len(b) : len(b)+int(seg.Length)]
		if ctx.Err() != nil || !files.readProved(seg, to) {
			return false
		}
		b = b[:len(b)+len(to)]
	}
	return true
}
