package artefact

import (
	"context"
	"io"
	"os"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// direct compresses an archive for one reader, without the disk.
func (c *Cache) direct(ctx context.Context, s store.Store, info *narinfo.Info) (*store.File, error) {
	select {
	case c.directs <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	nar, err := s.Open(ctx, info)
	if err != nil {
		<-c.directs
		return nil, err
	}
	c.mu.Lock()
	c.stats.Direct++
	c.mu.Unlock()
	if direct := c.opts.Trace.Direct; direct != nil {
		direct(info.StorePath)
	}
	d := &stream{c: c, ctx: ctx, nar: nar, cut: cutter{nar: nar, size: info.NarSize}}
	return &store.File{ReadSeekCloser: d, Size: -1}, nil
}

// stream yields frames as they are asked for. It is not safe for concurrent use.
type stream struct {
	c    *Cache
	ctx  context.Context // of the call that opened it
	nar  io.ReadCloser   // nil once closed
	cut  cutter
	out  []byte // what is left of a frame
	last bool
	err  error // sticky
}

// Read compresses the next frame when it has handed out the one before.
func (d *stream) Read(p []byte) (int, error) {
	for len(d.out) == 0 && d.err == nil {
		d.err = d.next()
	}
	if len(d.out) == 0 && len(p) > 0 {
		return 0, d.err
	}
	n := copy(p, d.out)
	d.out = d.out[n:]
	return n, nil
}

// next keeps none of the memory that frames share, for who reads may be slow.
func (d *stream) next() error {
	if d.last {
		return io.EOF
	}
	fr, err := d.cut.next(d.ctx, d.c.frames)
	if err != nil {
		return err
	}
	d.c.frames.compress(fr)
	d.out = append(d.out[:0:0], fr.out...)
	d.last = fr.last
	d.c.frames.release(fr)
	return nil
}

// Seek fails: bytes that have gone are gone.
func (d *stream) Seek(int64, int) (int64, error) { return 0, store.ErrUnsupported }

// Close releases what the stream holds. A second Close does nothing.
func (d *stream) Close() error {
	if d.nar == nil {
		return nil
	}
	err := d.nar.Close()
	d.nar, d.out, d.err = nil, nil, os.ErrClosed
	<-d.c.directs
	d.c.frames.rest()
	return err
}
