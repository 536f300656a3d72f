package artefact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/semaphore"

	"github.com/voidnxlab/nixtrap/store"
)

// encoderID names the bytes that the code in this file makes. It must change with them: see TestEncoderIsGolden.
const encoderID = "z1"

const (
	firstFrame = 256 << 10 // small, for it is what a client waits for
	wholeNAR   = 2 << 20   // up to which a NAR is one frame
	leastFrame = 8 << 20
	mostFrame  = 16 << 20
	window     = 8 << 20 // what every zstd decoder accepts
)

// frameSize returns how many bytes of a NAR of the given size the frame that begins at offset has; 0 at the end.
// Frames are halves of what is left, so that the encoders finish together, and the last is not much smaller than the
// least, for each frame begins without knowing the data before it.
func frameSize(size, offset int64) int64 {
	left := size - offset
	switch {
	case offset == 0 && size > wholeNAR:
		return firstFrame
	case left <= leastFrame*3/2:
		return left
	}
	return min(max(left/2, leastFrame), mostFrame)
}

// frames compresses frames for all readers of a Cache, within bounds of CPU and memory. It is safe for concurrent use.
type frames struct {
	zstd   *zstd.Encoder       // as many frames at a time as it has encoders
	memory *semaphore.Weighted // bytes of frames that are uncompressed, being compressed or not yet written
	large  sync.Pool           // *[]byte of mostFrame
	packed sync.Pool           // *[]byte for compressed frames
}

func newFrames(encoders int) (*frames, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(window),
		zstd.WithEncoderCRC(true), zstd.WithEncoderConcurrency(encoders))
	if err != nil {
		return nil, fmt.Errorf("artefact: %w", err)
	}
	f := &frames{zstd: e, memory: semaphore.NewWeighted(int64(encoders+1) * mostFrame)}
	f.large.New = func() any { return new(make([]byte, mostFrame)) }
	f.packed.New = func() any { return new([]byte) }
	return f, nil
}

// frame is a part of a NAR, and then its compressed form. It holds memory until release.
type frame struct {
	size int64
	last bool
	raw  *[]byte // nil once compressed
	out  *[]byte
	done chan struct{} // closed when out is there
}

// compress is to be called once, by a goroutine of its own or not.
func (f *frames) compress(fr *frame) {
	fr.out = f.packed.Get().(*[]byte)
	*fr.out = f.zstd.EncodeAll((*fr.raw)[:fr.size], (*fr.out)[:0])
	f.drop(fr)
	close(fr.done)
}

// drop gives the uncompressed bytes up.
func (f *frames) drop(fr *frame) {
	if fr.raw != nil && len(*fr.raw) == mostFrame {
		f.large.Put(fr.raw)
	}
	fr.raw = nil
}

func (f *frames) release(fr *frame) {
	if fr.out != nil {
		f.packed.Put(fr.out)
		fr.out = nil
	}
	f.memory.Release(fr.size)
}

// cutter cuts a NAR into frames.
type cutter struct {
	nar          io.Reader
	size, offset int64
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
	fr := &frame{size: n, last: c.offset+n == c.size, done: make(chan struct{})}
	if n > wholeNAR {
		fr.raw = f.large.Get().(*[]byte)
	} else {
		fr.raw = new(make([]byte, n))
	}
	if err := c.fill((*fr.raw)[:n], fr.last); err != nil {
		f.drop(fr)
		f.release(fr)
		return nil, err
	}
	c.offset += n
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
