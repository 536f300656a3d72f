package narfile

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Reader reads bytes of which a size or a SHA-256 or both were promised.
//
// The read that would yield the last byte yields it only if nothing follows and the promise holds; otherwise it fails
// with [store.ErrCorrupt]. An error of the source, [io.ErrUnexpectedEOF] too, is returned as it is, and stays.
// It is not safe for concurrent use.
type Reader struct {
	src  io.Reader
	size int64 // -1: unknown
	want narinfo.Hash
	more func() error // what else has to hold at the end; may be nil

	hash    hash.Hash
	read    int64
	held    byte // the last byte that was read, where the size is unknown
	holding bool
	late    error // came with bytes
	err     error // sticky
}

// NewReader returns a reader of src, which must yield size bytes (-1: any number) that hash to want (zero: to anything).
// more is called when all of that is true, and its error is the reader's; nil is nothing.
func NewReader(src io.Reader, size int64, want narinfo.Hash, more func() error) *Reader {
	return &Reader{src: src, size: size, want: want, more: more, hash: sha256.New()}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (n int, err error) {
	switch {
	case r.err != nil:
		return 0, r.err
	case len(p) == 0:
		return 0, nil
	case r.size < 0:
		n, r.err = r.readHolding(p)
	default:
		n, r.err = r.readSized(p)
	}
	if n > 0 && r.err != nil && !isEnd(r.err) {
		return n, nil // the error comes next
	}
	return n, r.err
}

func (r *Reader) readSized(p []byte) (int, error) {
	n, err := r.src.Read(p[:min(int64(len(p)), r.size-r.read)])
	r.count(p[:n])
	switch {
	case r.read == r.size:
		if err := r.prove(err); err != nil {
			return 0, err
		}
		return n, io.EOF
	case err == io.EOF:
		return n, corrupt("ends %d bytes early", r.size-r.read)
	}
	return n, err
}

// isEnd is true for a bare io.EOF: one that is wrapped is somebody's failure.
func isEnd(err error) bool {
	return err == io.EOF //nolint:errorlint // see above
}

// readHolding keeps one byte back, for only the end tells which is the last.
func (r *Reader) readHolding(p []byte) (int, error) {
	for {
		err := r.late
		n := 0
		if err == nil {
			n, err = r.src.Read(p)
			r.count(p[:n])
		}
		if n > 0 {
			r.late = err
			if n = r.exchange(p[:n]); n > 0 {
				return n, nil
			}
			continue
		}
		if err == nil {
			return 0, nil
		}
		if err != io.EOF {
			return 0, err
		}
		if err := r.prove(err); err != nil {
			return 0, err
		}
		if r.holding {
			p[0] = r.held
			return 1, io.EOF
		}
		return 0, io.EOF
	}
}

// exchange puts the byte that was held before those in p, and holds their last. It returns how many are then in p.
func (r *Reader) exchange(p []byte) int {
	last := p[len(p)-1]
	if !r.holding {
		r.held, r.holding = last, true
		return len(p) - 1
	}
	copy(p[1:], p[:len(p)-1])
	p[0], r.held = r.held, last
	return len(p)
}

func (r *Reader) count(p []byte) {
	r.hash.Write(p)
	r.read += int64(len(p))
}

// prove is called with all bytes hashed. err is what came with the last of them.
func (r *Reader) prove(err error) error {
	if err == nil {
		var one [1]byte
		if _, err = io.ReadFull(r.src, one[:]); err == nil {
			return corrupt("goes on after %d bytes", r.size)
		}
	}
	if !isEnd(err) {
		return err
	}
	got, err := narinfo.NewHash(narinfo.SHA256, r.hash.Sum(nil))
	if err != nil {
		return err
	}
	if !r.want.IsZero() && got != r.want {
		return corrupt("hashes to %s, not %s", got, r.want)
	}
	if r.more != nil {
		return r.more()
	}
	return nil
}

// Damage says how data are not what was promised. It is a [store.ErrCorrupt].
type Damage struct {
	How string // a predicate: "ends 3 bytes early"
}

// Error implements error.
func (d *Damage) Error() string { return fmt.Sprintf("narfile: %s: %v", d.How, store.ErrCorrupt) }

// Unwrap returns [store.ErrCorrupt].
func (d *Damage) Unwrap() error { return store.ErrCorrupt }

func corrupt(format string, args ...any) error { return &Damage{fmt.Sprintf(format, args...)} }

// narReader reads a compressed archive decoded, and proves that it is a path's NAR.
type narReader struct {
	ctx    context.Context // of the call that opened it, for which reading is a part of opening
	proved *Reader
	dec    io.Closer
	src    io.Closer
	blame  func(error) error
	err    error // sticky
	closed bool
}

// OpenNAR returns the NAR of info in src, which is compressed as info.Compression says. It takes src over: closing the NAR
// closes it, and so does a failure. An error of src is returned as it is, whatever a decoder makes of it; data that are not
// that NAR are a [Damage], and a compression that is not known is [errors.ErrUnsupported]. A second Close does nothing.
// The reader is not safe for concurrent use.
//
// blame is called with what goes wrong, once and before src is closed, and what it returns is the error; nil is nothing.
func OpenNAR(ctx context.Context, info *narinfo.Info, src io.ReadCloser, blame func(error) error) (io.ReadCloser, error) {
	if blame == nil {
		blame = func(err error) error { return err }
	}
	watched := &watched{r: src}
	dec, err := NewDecoder(info.Compression, watched)
	if err != nil {
		err = blame(watched.judge(err))
		return nil, errors.Join(err, src.Close())
	}
	judged := judgedReader{dec, watched}
	return &narReader{ctx: ctx, proved: NewReader(judged, info.NarSize, info.NarHash, nil), dec: dec, src: src, blame: blame}, nil
}

// Read implements io.Reader.
func (n *narReader) Read(p []byte) (int, error) {
	if n.err == nil {
		n.err = n.ctx.Err()
	}
	if n.err != nil {
		return 0, n.err
	}
	read, err := n.proved.Read(p)
	if err != nil && !isEnd(err) {
		err = n.blame(err)
	}
	n.err = err
	return read, err
}

// Close implements io.Closer.
func (n *narReader) Close() error {
	if n.closed {
		return nil
	}
	n.closed, n.err = true, os.ErrClosed
	return errors.Join(n.dec.Close(), n.src.Close())
}

// watched remembers that its source failed.
type watched struct {
	r   io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// judge tells malformed data from trouble with the source and from what can't be decoded.
func (w *watched) judge(err error) error {
	switch {
	case w.err != nil:
		return w.err
	case errors.Is(err, errors.ErrUnsupported):
		return fmt.Errorf("narfile: %w", err)
	}
	return corrupt("does not decode (%v)", err)
}

type judgedReader struct {
	dec     io.Reader
	watched *watched
}

func (j judgedReader) Read(p []byte) (int, error) {
	n, err := j.dec.Read(p)
	if err != nil && !isEnd(err) {
		err = j.watched.judge(err)
	}
	return n, err
}
