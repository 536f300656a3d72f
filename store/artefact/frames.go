package artefact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/semaphore"

	"github.com/voidnxlab/nixtrap/store"
)

// encoderID names the bytes that the code in this file makes. It must change with them: see TestEncoderIsGolden.
const encoderID = "z2"

const (
	firstFrame = 256 << 10 // small, for it is what a client waits for
	wholeNAR   = 1 << 20   // up to which a NAR is one frame
	leastFrame = 4 << 20
	mostFrame  = 8 << 20   // a frame that does not fit into its window makes the encoder move what it holds for each block
	window     = mostFrame // what every zstd decoder accepts
)

// thorough reports whether the frame with this number is compressed at twice the cost. One in three is what it takes to
// be no larger than what Nix makes; the first is, for it and the whole of small NARs are soon done.
func thorough(number int) bool { return number == 0 || number%3 == 2 }

// frameSize returns how many bytes of a NAR of the given size the frame that begins at offset has; 0 at the end.
// Frames are halves of what is left, so that the encoders finish together, but not small, for each begins without
// knowing the data before it.
func frameSize(size, offset int64) int64 {
	left := size - offset
	switch {
	case offset == 0 && size > wholeNAR:
		return firstFrame
	case left <= mostFrame:
		return left
	}
	return min(max(left/2, leastFrame), mostFrame)
}

// frames compresses frames for all readers of a Cache, within bounds of CPU and memory. It is safe for concurrent use.
type frames struct {
	fast, slow *zstd.Encoder
	slows      chan struct{}       // one element for each frame in slow, whose tables are large
	encoders   chan struct{}       // one element for each frame that is being compressed
	memory     *semaphore.Weighted // bytes of frames that are uncompressed, being compressed or not yet written

	mu     sync.Mutex // guards what follows
	large  [][]byte   // of mostFrame, free
	packed [][]byte   // for compressed frames, free
	idle   *time.Timer
}

func newFrames(encoders int) (*frames, error) {
	f := &frames{
		slows:    make(chan struct{}, max(encoders/2, 1)),
		encoders: make(chan struct{}, encoders),
		memory:   semaphore.NewWeighted(int64(encoders+1) * mostFrame),
	}
	var err, err2 error
	f.fast, err = newEncoder(zstd.SpeedDefault, encoders)
	f.slow, err2 = newEncoder(zstd.SpeedBetterCompression, cap(f.slows))
	return f, errors.Join(err, err2)
}

func newEncoder(level zstd.EncoderLevel, frames int) (*zstd.Encoder, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(frames),
		zstd.WithWindowSize(window), zstd.WithEncoderCRC(true), zstd.WithAllLitEntropyCompression(true),
		zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("artefact: %w", err)
	}
	return e, nil
}

// buffer returns one of the free ones, or one of the given capacity.
func (f *frames) buffer(free *[][]byte, capacity int64) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(*free)
	if n == 0 {
		return make([]byte, 0, capacity)
	}
	b := (*free)[n-1]
	*free = (*free)[:n-1]
	return b
}

// idleAfter is how long free buffers are kept without work: a client asks for one archive after the other.
const idleAfter = 10 * time.Second

// rest lets free buffers go in a while. More work meanwhile keeps them.
func (f *frames) rest() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.idle == nil {
		f.idle = time.AfterFunc(idleAfter, f.drain)
	}
	f.idle.Reset(idleAfter)
}

// drain lets free buffers go. Those in use come back, and go with the next rest.
func (f *frames) drain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.large, f.packed = nil, nil
}

func (f *frames) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.idle != nil {
		f.idle.Stop()
	}
}

// frame is a part of a NAR, and then its compressed form. It holds memory until release.
type frame struct {
	size int64 // what it holds of memory
	slow bool
	last bool
	raw  []byte // nil once compressed
	out  []byte
	done chan struct{} // closed when out is there
}

// compress is to be called once, by a goroutine of its own or not.
func (f *frames) compress(fr *frame) {
	var out []byte
	if cap(fr.raw) == mostFrame {
		out = f.buffer(&f.packed, mostFrame/2)
	} else {
		out = make([]byte, 0, fr.size/2+block)
	}
	fr.out = f.encode(fr, out)
	f.drop(fr)
	// Frames that wait for a slow one before them must not keep the encoders idle.
	if saved := fr.size - int64(len(fr.out)); saved > 0 {
		f.memory.Release(saved)
		fr.size -= saved
	}
	close(fr.done)
}

func (f *frames) encode(fr *frame, out []byte) []byte {
	e := f.fast
	if fr.slow {
		e = f.slow
		f.slows <- struct{}{}
		defer func() { <-f.slows }()
	}
	f.encoders <- struct{}{}
	defer func() { <-f.encoders }()
	return e.EncodeAll(fr.raw, out)
}

// drop gives the uncompressed bytes up.
func (f *frames) drop(fr *frame) {
	if cap(fr.raw) == mostFrame {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.large = append(f.large, fr.raw)
	}
	fr.raw = nil
}

func (f *frames) release(fr *frame) {
	if cap(fr.out) >= mostFrame/2 {
		f.mu.Lock()
		f.packed = append(f.packed, fr.out[:0])
		f.mu.Unlock()
	}
	fr.out = nil
	f.memory.Release(fr.size)
}

// cutter cuts a NAR into frames.
type cutter struct {
	nar          io.Reader
	size, offset int64
	number       int // of the next frame
}

// next reads the next frame. It waits for memory, which the frame holds until it is released.
// The last frame is returned only if the NAR ends with it.
func (c *cutter) next(ctx context.Context, f *frames) (*frame, error) {
	n := frameSize(c.size, c.offset)
	if n <= 0 {
		return nil, fmt.Errorf("artefact: a NAR of %d bytes: %w", c.size, store.ErrCorrupt)
	}
	if err := f.memory.Acquire(ctx, n); err != nil {
		return nil, err
	}
	fr := &frame{size: n, slow: thorough(c.number), last: c.offset+n == c.size, done: make(chan struct{})}
	if n > wholeNAR {
		fr.raw = f.buffer(&f.large, mostFrame)[:n]
	} else {
		fr.raw = make([]byte, n)
	}
	if err := c.fill(fr.raw, fr.last); err != nil {
		f.drop(fr)
		f.release(fr)
		return nil, err
	}
	c.offset += n
	c.number++
	return fr, nil
}

func (c *cutter) fill(b []byte, last bool) error {
	switch _, err := io.ReadFull(c.nar, b); {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("artefact: a NAR ends before its %d bytes: %w", c.size, store.ErrCorrupt)
	case err != nil:
		return err
	case !last:
		return nil
	}
	return atEnd(c.nar)
}

// atEnd sees that a NAR has ended. Only a bare io.EOF is an end; a wrapped one is somebody's failure.
func atEnd(r io.Reader) error {
	var b [1]byte
	for range 100 {
		n, err := r.Read(b[:])
		switch {
		case n > 0:
			return fmt.Errorf("artefact: a NAR goes on after its end: %w", store.ErrCorrupt)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}
