package localstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"time"

	"github.com/voidnxlab/nixtrap/internal/buffer"
	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

const (
	// A chunk ends early rather than begin a read of less than this, unless that is all there is.
	leastRead = 64 << 10
	// Runs of at least this much in memory are handed out as they are, in pieces of at most that much.
	leastRun = 16 << 10
	mostRun  = 2 << 20
)

// errWrongHash reports that a whole path was hashed, unchanged, and is not what the database promises.
var errWrongHash = errors.New("localstore: wrong hash")

// stream reads an archive, or a part of it, from the files.
//
// It goes over a region of the archive and hands out a window of it:
// of a proved path the two are the same, else the region is the whole archive, which is hashed on the way.
type stream struct {
	s   *Store
	ctx context.Context // of the call that opened it: its end stops the reading
	o   *object

	next     func() (nar.Segment, bool) // of the region
	stop     func()
	lost     bool        // next does not go on at pos
	seg      nar.Segment // what remains of the current one
	pos, end int64       // in the archive: of the next byte to be read, of the region's end
	from, to int64       // the window

	files fileReader

	hash  hash.Hash // nil of a proved path
	start time.Time // of the hashing
	quiet bool      // the pass is an examination: it blames nobody

	kept *kept // what is in memory of a proved path; nil if nothing is

	ahead *ahead  // nil of a path without a proof or in memory, and of a small one
	buf   *[]byte // from the store's pool; nil until it is needed
	out   []byte  // what is to be handed out next
	err   error   // sticky
	shut  bool
}

var _ io.WriterTo = (*stream)(nil)

func (s *Store) newStream(ctx context.Context, o *object, offset, length int64) (*stream, error) {
	r := &stream{s: s, ctx: ctx, o: o, pos: offset, end: offset + length, from: offset, to: offset + length}
	if o.proved.Load() {
		s.keep(o)
	} else {
		r.pos, r.end = 0, o.narSize
		r.hash, r.start = sha256.New(), time.Now()
	}
	if err := r.files.begin(o); err != nil {
		if !vanished(err) {
			return nil, fmt.Errorf("localstore: %w", err)
		}
		if !s.stillValid(ctx, o.subject) {
			s.objects.remove(o)
			return nil, gone(o.path)
		}
		s.condemn(o.subject, proofSum{}, "files missing")
		return nil, fmt.Errorf("localstore: path %q: files missing: %w (%w)", o.path, store.ErrNotFound, store.ErrCorrupt)
	}
	r.next, r.stop = iter.Pull(r.segments())
	if r.hash == nil && r.kept == nil && length > buffer.Large {
		r.ahead = s.newAhead(ctx, o, r.pos, r.end)
	}
	return r, nil
}

// segments is where the region's bytes are.
func (r *stream) segments() iter.Seq[nar.Segment] {
	if r.hash == nil {
		r.kept = r.s.memory.acquire(r.o)
	}
	if r.kept == nil {
		return r.o.layout.Segments(r.pos, r.end-r.pos)
	}
	r.s.lookAfter(r.kept)
	return func(yield func(nar.Segment) bool) { r.kept.segments(r.pos, r.end-r.pos, yield) }
}

// Prefetch reads on until there is something to hand out, and so finds most of what may be wrong.
// An archive that ends there is proved.
func (r *stream) Prefetch() error {
	if len(r.out) == 0 && r.err == nil {
		r.out = r.chunk()
	}
	if errors.Is(r.err, io.EOF) {
		return nil
	}
	if r.err == nil && r.hash == nil && !r.lost && r.seg.Bytes == nil && r.seg.Length > 0 {
		r.err = r.ensureOpen() // what follows may be up to send
	}
	return r.err
}

// Read copies out of the chunk that was read last.
func (r *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.out) == 0 {
		if r.out = r.chunk(); len(r.out) == 0 {
			return 0, r.err
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// WriteTo writes chunks of up to 1 MiB straight from the buffer they are read into, what is in memory from there, and
// large files, where w is a [FileSender], by the kernel. w must not keep what it is given: it may be gone after Close.
func (r *stream) WriteTo(w io.Writer) (written int64, err error) {
	sender, _ := w.(FileSender)
	for {
		sent, err := r.send(sender)
		written += sent
		if err != nil {
			return written, err
		}
		if len(r.out) == 0 {
			if r.out = r.chunk(); len(r.out) == 0 {
				break
			}
		}
		n, err := w.Write(r.out)
		written += int64(n)
		r.out = r.out[n:]
		if err != nil {
			return written, err
		}
		if len(r.out) > 0 {
			return written, io.ErrShortWrite
		}
	}
	if errors.Is(r.err, io.EOF) {
		return written, nil
	}
	return written, r.err
}

// FileSender is a writer that can have the kernel copy from a file. The descriptor stays the caller's, and is not kept.
type FileSender interface {
	// SendFile writes n bytes of the file with descriptor fd from offset on, and returns how many were written.
	// Fewer come with an error: [errors.ErrUnsupported] where this cannot be done, io.ErrUnexpectedEOF where the file
	// ends before.
	SendFile(fd int, offset, n int64) (int64, error)
}

// leastSend is how much of a file must be left for the kernel to copy it: below it the copy through a buffer, together
// with what surrounds the file, costs less.
const leastSend = 256 << 10

// send has the kernel copy the rest of the current file, if it is the next thing to go out.
// The window's last byte is left: it goes when all is found unchanged.
func (r *stream) send(w FileSender) (n int64, err error) {
	if w == nil || r.hash != nil || len(r.out) > 0 || r.err != nil || r.ctx.Err() != nil || r.ahead != nil && r.ahead.at(r.pos) {
		return 0, nil
	}
	if r.find(); r.seg.Bytes != nil {
		return 0, nil
	}
	size := min(r.seg.Length, r.to-r.pos-1)
	if size < leastSend {
		return 0, nil
	}
	if r.err = r.ensureOpen(); r.err != nil {
		return 0, nil
	}
	n, err = w.SendFile(r.files.fd, r.seg.Offset, size)
	r.pos += n
	switch {
	case errors.Is(err, errors.ErrUnsupported) && n == 0:
		return 0, nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		r.err = r.trouble(errTruncated)
		return n, nil
	case err != nil:
		return n, err
	}
	r.err = r.advance(n)
	return n, nil
}

// Close releases what the stream holds. A second Close does nothing.
func (r *stream) Close() error {
	if r.shut {
		return nil
	}
	r.shut, r.out = true, nil
	if r.ahead != nil {
		r.ahead.close()
	}
	r.stop()
	r.files.end()
	if r.buf != nil {
		r.s.buffers.Put(r.buf)
	}
	if r.kept != nil {
		r.s.memory.release(r.kept)
	}
	r.err = errors.New("localstore: read of a closed archive")
	return nil
}

// chunk returns the next bytes of the window, or none and sets r.err.
func (r *stream) chunk() []byte {
	if r.err != nil {
		return nil
	}
	b := r.run()
	if b == nil {
		b = r.readAhead()
	}
	if b != nil {
		if r.pos == r.to {
			return r.last(b)
		}
		return b
	}
	if r.buf == nil {
		r.buf = r.s.buffers.Get()
	}
	for {
		at := r.pos
		n, err := r.fill(*r.buf)
		if err != nil {
			r.err = err
			return nil
		}
		b := (*r.buf)[:n]
		b = b[clamp(r.from-at, n):clamp(r.to-at, n)]
		if r.pos >= r.to {
			return r.last(b)
		}
		if len(b) > 0 {
			return b
		}
	}
}

// readAhead returns the next bytes if they were read ahead.
func (r *stream) readAhead() []byte {
	if r.ahead == nil || r.files.isOpen() || r.ctx.Err() != nil {
		return nil
	}
	p := r.ahead.take(r.pos)
	if p == nil {
		return nil
	}
	if r.buf != nil {
		r.s.buffers.Put(r.buf)
	}
	r.buf = p.buf
	r.pos += p.size
	r.lost = true
	return (*p.buf)[:p.size]
}

// find makes next go on at pos.
func (r *stream) find() {
	if !r.lost {
		return
	}
	r.stop()
	r.next, r.stop = iter.Pull(r.o.layout.Segments(r.pos, r.end-r.pos))
	r.seg, _ = r.next()
	r.lost = false
}

// run returns the next bytes as they lie in memory, nil where they do not, or where there are few.
func (r *stream) run() []byte {
	if r.kept == nil || r.ctx.Err() != nil {
		return nil
	}
	if r.seg.Length == 0 {
		r.seg, _ = r.next()
	}
	if len(r.seg.Bytes) == 0 || len(r.seg.Bytes) < leastRun && r.seg.Length != r.to-r.pos {
		return nil
	}
	b := r.seg.Bytes[:min(len(r.seg.Bytes), mostRun)]
	r.seg.Bytes = r.seg.Bytes[len(b):]
	r.seg.Length -= int64(len(b))
	r.pos += int64(len(b))
	return b
}

func clamp(x int64, n int) int64 { return max(0, min(x, int64(n))) }

// last lets the window's last bytes go if all that was read proves to be right.
// What the region holds behind them is read first.
func (r *stream) last(b []byte) []byte {
	r.err = r.drain()
	if r.err == nil {
		r.err = r.finish()
	}
	if r.err != nil {
		return nil
	}
	r.err = io.EOF
	return b
}

func (r *stream) drain() error {
	if r.pos == r.end {
		return nil
	}
	buf := r.s.buffers.Get()
	defer r.s.buffers.Put(buf)
	for r.pos < r.end {
		if _, err := r.fill(*buf); err != nil {
			return err
		}
	}
	return nil
}

// fill reads on in the region, and hashes if need be. It returns 0 only at the region's end.
func (r *stream) fill(b []byte) (n int, err error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	r.find()
	for n < len(b) {
		if n > 0 && r.ahead != nil && r.ahead.at(r.pos+int64(n)) {
			break
		}
		if r.seg.Length == 0 {
			var more bool
			if r.seg, more = r.next(); !more {
				break
			}
		}
		if r.seg.Bytes != nil {
			c := copy(b[n:], r.seg.Bytes)
			r.seg.Bytes = r.seg.Bytes[c:]
			r.seg.Length -= int64(c)
			n += c
			continue
		}
		if room := len(b) - n; room < leastRead && int64(room) < r.seg.Length {
			break
		}
		if n > 0 && r.hash == nil && r.seg.Length >= leastSend {
			break // for send
		}
		c, err := r.content(b[n:])
		if err != nil {
			return 0, err
		}
		n += c
	}
	if r.hash != nil {
		r.hash.Write(b[:n])
	}
	r.pos += int64(n)
	return n, nil
}

// content reads from the current segment's file, and closes it after the segment's last byte.
func (r *stream) content(b []byte) (int, error) {
	if n := r.seg.Length; r.hash == nil && !r.files.isOpen() && n <= int64(len(b)) && r.files.readProved(r.seg, b[:n]) {
		r.seg.Length = 0
		return int(n), nil
	}
	if err := r.ensureOpen(); err != nil {
		return 0, err
	}
	if int64(len(b)) > r.seg.Length {
		b = b[:r.seg.Length]
	}
	n, err := r.files.read(b, r.seg.Offset)
	if err != nil {
		return 0, r.trouble(err)
	}
	return n, r.advance(int64(n))
}

func (r *stream) ensureOpen() error {
	if r.files.isOpen() {
		return nil
	}
	return r.open(r.seg.File)
}

// advance goes on in the current segment's file by n bytes that were read, and closes it after the last.
func (r *stream) advance(n int64) error {
	r.seg.Offset += n
	if r.seg.Length -= n; r.seg.Length > 0 {
		return nil
	}
	switch now, err := r.files.close(); {
	case err != nil:
		return r.trouble(err)
	case r.hash != nil || now == r.files.ids[r.seg.File]:
		return nil
	case sameContent(now, r.files.ids[r.seg.File]):
		r.s.objects.remove(r.o)
		return corrupt(r.o.path, "a link was made or removed while its file was read")
	}
	return r.blame(proofSum{}, "changed while it was read")
}

// open opens a file. Of a proved path it must be the one that the proof is about;
// if it is not, the whole path is hashed before the reading goes on.
func (r *stream) open(i int) error {
	for again := false; ; again = true {
		id, err := r.files.open(i)
		switch {
		case err != nil && (r.hash != nil || !vanished(err)):
			return r.trouble(err)
		case err == nil && (r.hash != nil || id == r.files.ids[i]):
			return nil
		case again:
			return corrupt(r.o.path, "changes again and again")
		}
		if err := r.reprove(); err != nil {
			return err
		}
	}
}

// reprove has the path hashed as it is now. What was read so far came from files that matched the old proof when they
// were opened and when they were closed; equal hashes mean equal archives, so the rest may come from the new ones.
func (r *stream) reprove() error {
	r.s.objects.remove(r.o)
	o, err := r.s.prove(r.ctx, r.o.subject)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return corrupt(r.o.path, "changed while it was read")
	case err != nil:
		return err
	case !o.proved.Load() || !o.layout.Equal(r.o.layout):
		return corrupt(r.o.path, "changed a moment ago")
	}
	r.o = o
	if r.ahead != nil { // of the old object
		r.ahead.close()
		r.ahead = nil
	}
	return r.files.restart(o)
}

// finish decides whether the last bytes may go.
func (r *stream) finish() error {
	if r.hash == nil {
		switch unchanged, err := r.files.unchanged(sameContent); {
		case err != nil:
			return r.trouble(err)
		case !unchanged:
			return r.blame(proofSum{}, "changed while it was read")
		}
		if r.to-r.from == r.o.narSize {
			r.s.remember(r.o)
		}
		return nil
	}
	unchanged, err := r.files.unchanged(sameID)
	unchanged = unchanged && err == nil && r.files.exact
	got, err := narinfo.NewHash(narinfo.SHA256, r.hash.Sum(nil))
	if err == nil && got != r.o.narHash {
		err = errWrongHash
	}
	if trace := r.s.options.Trace; trace != nil && trace.Hashed != nil {
		trace.Hashed(r.o.path, r.o.narSize, err)
	}
	switch {
	case err != nil && unchanged:
		return r.blame(r.o.sum, "hash is "+got.String())
	case err != nil:
		return r.blame(proofSum{}, "changed while it was read")
	case unchanged:
		r.s.record(r.o, r.start)
	}
	return nil
}

// trouble judges a failure of the file system: a file that is not there any more, or too short, is the path's fault.
func (r *stream) trouble(err error) error {
	if vanished(err) || errors.Is(err, errTruncated) {
		return r.blame(proofSum{}, err.Error())
	}
	return fmt.Errorf("localstore: %w", err)
}

func (r *stream) blame(sum proofSum, reason string) error {
	if !r.quiet {
		return r.s.blame(r.ctx, r.o.subject, sum, reason)
	}
	if sum != (proofSum{}) {
		return errWrongHash
	}
	return corrupt(r.o.path, reason)
}
