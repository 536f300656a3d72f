package httpcache

import (
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// stallPiece is how much a client must take within Options.WriteStall.
const stallPiece = 256 << 10

// bodyWriter writes a body in pieces and gives the client a new deadline for each.
// It keeps the response's ReadFrom for files, so that the kernel may copy them.
type bodyWriter struct {
	w       http.ResponseWriter
	rc      *http.ResponseController // nil if stall is 0 from the start
	stall   time.Duration            // 0: not our business
	piece   int                      // how much is written under one deadline
	until   time.Time                // the deadline that is set
	written int64
	failed  error // the first error of the client's side
}

var _ io.ReaderFrom = (*bodyWriter)(nil)

// staller is a ResponseWriter that cuts a client off by itself which does not take the next 256 KiB in time.
type staller interface{ SetWriteStall(d time.Duration) }

// newBodyWriter leaves it to w to cut clients off, if w is able to.
func newBodyWriter(w http.ResponseWriter, stall time.Duration) bodyWriter {
	b := bodyWriter{w: w, stall: stall, piece: stallPiece}
	if s, ok := w.(staller); ok {
		s.SetWriteStall(max(stall, 0))
		b.stall, b.piece = 0, math.MaxInt
		return b
	}
	b.rc = http.NewResponseController(w)
	return b
}

// extend moves the deadline on. Moving it for every small write would cost more than the writes.
func (b *bodyWriter) extend() {
	now := time.Now()
	if b.stall <= 0 || b.until.Sub(now) > b.stall-b.stall/8 {
		return
	}
	b.until = now.Add(b.stall)
	if b.rc.SetWriteDeadline(b.until) != nil {
		b.stall = 0
	}
}

// end sends what the server has buffered while the deadline still holds, and lifts it: the connection may serve others.
func (b *bodyWriter) end() error {
	if f, ok := b.w.(interface{ FlushError() error }); ok && b.rc == nil {
		err := f.FlushError()
		b.fail(err)
		return err
	}
	if b.stall <= 0 {
		return nil
	}
	b.extend()
	err := b.rc.Flush()
	if errors.Is(err, http.ErrNotSupported) {
		err = nil // a middleware's writer: what it holds goes when the handler returns
	}
	_ = b.rc.SetWriteDeadline(time.Time{})
	b.fail(err)
	return err
}

func (b *bodyWriter) Write(p []byte) (n int, err error) {
	for err == nil && n < len(p) {
		var m int
		b.extend()
		m, err = b.w.Write(p[n:][:min(len(p)-n, b.piece)])
		n += m
		b.written += int64(m)
	}
	b.fail(err)
	return n, err
}

func (b *bodyWriter) fail(err error) {
	if b.failed == nil {
		b.failed = err
	}
}

// ReadFrom copies r, which may be a file or an [io.LimitedReader] of one, to its end.
func (b *bodyWriter) ReadFrom(r io.Reader) (n int64, err error) {
	to, ok := b.w.(io.ReaderFrom)
	limited, file := asFile(r)
	if !ok || !file {
		return io.CopyBuffer(onlyWriter{b}, onlyReader{r}, make([]byte, min(stallPiece, 32<<10)))
	}
	for limited.N > 0 {
		piece := io.LimitedReader{R: limited.R, N: min(limited.N, int64(b.piece))}
		size := piece.N
		b.extend()
		m, err := to.ReadFrom(&piece)
		n += m
		b.written += m
		limited.N -= m
		if isNetwork(err) {
			b.fail(err)
		}
		if err != nil || m < size {
			return n, err
		}
	}
	return n, nil
}

// fileSender is a ResponseWriter that has the kernel copy from a file.
type fileSender interface {
	SendFile(fd int, offset, n int64) (int64, error)
}

// SendFile is for stores that write archives out of files; see localstore.FileSender.
func (b *bodyWriter) SendFile(fd int, offset, n int64) (int64, error) {
	to, ok := b.w.(fileSender)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	sent, err := to.SendFile(fd, offset, n)
	b.written += sent
	if isNetwork(err) {
		b.fail(err)
	}
	return sent, err
}

// isNetwork tells the client's faults from the file's, which come out of the same call in the same wrapping.
func isNetwork(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, os.ErrDeadlineExceeded)
}

// asFile returns r as a limited reader of a file, if it is one that the kernel can copy.
func asFile(r io.Reader) (*io.LimitedReader, bool) {
	switch r := r.(type) {
	case *os.File:
		return &io.LimitedReader{R: r, N: 1<<63 - 1}, true
	case *io.LimitedReader:
		_, ok := r.R.(*os.File)
		return r, ok
	}
	return nil, false
}

type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)
