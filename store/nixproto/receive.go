package nixproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
)

// frameReader yields the contents of frames, up to the empty one. The frames' lengths cost nothing.
type frameReader struct {
	d     *decoder
	left  uint64 // of the current frame
	ended bool
}

func (f *frameReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for f.left == 0 {
		if f.ended {
			return 0, io.EOF
		}
		f.d.limit(wordSize)
		f.left = f.d.uint64()
		f.ended = f.left == 0
		if f.left > math.MaxInt64 {
			f.d.fail("frame of %d bytes", f.left)
		}
		if f.d.err != nil {
			f.left = 0
			return 0, f.d.err
		}
	}
	n, err := f.d.r.Read(p[:min(uint64(len(p)), f.left)])
	f.left -= uint64(n)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		f.d.err = err
	}
	return n, err
}

// received is the [Source] of an operation that adds paths.
type received struct {
	d       *decoder // of the frames' contents
	max     uint64   // bytes of one path's metadata
	trusted bool
	n       uint64
	next    uint64
	first   *PathInfo // came with the operation's arguments, without its path in the frames
	nar     *sizedNAR
}

func (r *received) Len() uint64 { return r.n }

func (r *received) Next(context.Context) (*PathInfo, io.Reader, error) {
	if r.d.err != nil {
		return nil, nil, r.d.err
	}
	if r.nar != nil {
		if _, err := io.Copy(io.Discard, r.nar); err != nil {
			return nil, nil, err
		}
	}
	if r.next == r.n {
		return nil, nil, io.EOF
	}
	r.next++
	info := r.first
	if info == nil {
		r.d.limit(r.max)
		info = decodePathInfo(r.d, parsePath(r.d, r.d.string()))
	}
	if r.d.err != nil {
		return nil, nil, r.d.err
	}
	info.Ultimate = info.Ultimate && r.trusted
	r.nar = &sizedNAR{scan: narScanner{d: r.d}, left: info.Info.NarSize, name: string(info.Info.StorePath)}
	return info, r.nar, nil
}

// skip checks what the handler has not read.
func (r *received) skip(ctx context.Context) error {
	for {
		switch _, _, err := r.Next(ctx); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// sizedNAR is an archive of a size that is known.
type sizedNAR struct {
	scan narScanner
	left int64
	name string
	err  error // sticks
}

func (r *sizedNAR) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.scan.Read(p)
	r.left -= int64(n)
	switch {
	case r.left < 0, errors.Is(err, io.EOF) && r.left != 0:
		err = fmt.Errorf("%w: NAR of %q is not as long as its NarSize", ErrProtocol, r.name)
	case err != nil && !errors.Is(err, io.EOF):
		err = fmt.Errorf("NAR of %q: %w", r.name, err)
	}
	if r.err = err; err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return n, err
}
