package httpcache

import (
	"errors"
	"fmt"
	"io"

	"github.com/voidnxlab/nixtrap/store"
)

// firstPiece is how much of a file's part is read before the status line, so that the client has something to do while
// the rest is sent.
const firstPiece = 512 << 10

// lastPiece is how much of a file's part is kept back until the file is found unchanged.
const lastPiece = 4 << 10

// sourceReader is a part of a file that has a Source: it goes out in large pieces, or by the kernel, and its last bytes
// when the check has passed.
type sourceReader struct {
	h      *Handler
	f      *store.File
	offset int64 // of the next byte
	left   int64 // bytes of the part that are not in ready
	buf    *[]byte
	ready  []byte // of buf
}

var _ prefetcher = (*sourceReader)(nil)

func (h *Handler) newSourceReader(f *store.File, s span) *sourceReader {
	return &sourceReader{h: h, f: f, offset: s.offset, left: s.length, buf: h.large.Get()}
}

// Prefetch reads the beginning.
func (r *sourceReader) Prefetch() error { return r.fill(firstPiece) }

// fill reads up to n more bytes. The last ones it reads only if the file is unchanged.
func (r *sourceReader) fill(n int) error {
	b := (*r.buf)[:min(int64(n), r.left)]
	got, err := r.f.Source.ReadAt(b, r.offset)
	if got < len(b) {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("httpcache: a file ends %d bytes early: %w", r.left-int64(got), store.ErrCorrupt)
		}
		return err
	}
	r.offset += int64(len(b))
	if r.left -= int64(len(b)); r.left == 0 && r.f.Check != nil {
		if err := r.f.Check(); err != nil {
			return err
		}
	}
	r.ready = b
	return nil
}

// Read implements io.Reader.
func (r *sourceReader) Read(p []byte) (int, error) {
	if len(r.ready) == 0 && r.left == 0 {
		return 0, io.EOF
	}
	if len(r.ready) == 0 {
		if err := r.fill(len(*r.buf)); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

// WriteTo implements io.WriterTo.
func (r *sourceReader) WriteTo(w io.Writer) (written int64, err error) {
	for len(r.ready) > 0 || r.left > 0 {
		if len(r.ready) == 0 {
			n, err := r.send(w)
			written += n
			if err != nil {
				return written, err
			}
			if err := r.fill(len(*r.buf)); err != nil {
				return written, err
			}
		}
		n, err := w.Write(r.ready)
		written += int64(n)
		r.ready = r.ready[n:]
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// send has the kernel copy all but the last piece, if it can.
func (r *sourceReader) send(w io.Writer) (int64, error) {
	to, ok := w.(fileSender)
	if !ok || r.left <= lastPiece {
		return 0, nil
	}
	n, err := to.SendFile(int(r.f.Source.Fd()), r.offset, r.left-lastPiece)
	r.offset += n
	r.left -= n
	switch {
	case errors.Is(err, errors.ErrUnsupported) && n == 0:
		return 0, nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return n, fmt.Errorf("httpcache: a file ends %d bytes early: %w", r.left, store.ErrCorrupt)
	}
	return n, err
}

// Close closes the file.
func (r *sourceReader) Close() error {
	r.h.large.Put(r.buf)
	r.buf, r.ready = nil, nil
	return r.f.Close()
}
