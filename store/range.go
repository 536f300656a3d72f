package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// OpenRange returns bytes [offset, offset+length) of the path's NAR: with the store's [RangeOpener], or by opening the
// whole NAR, which is then read to its end, as its proof needs.
// A range that does not lie within info.NarSize is an error. The caller closes the reader.
func OpenRange(ctx context.Context, s Store, info *narinfo.Info, offset, length int64) (io.ReadCloser, error) {
	if o, ok := s.(RangeOpener); ok {
		return o.OpenRange(ctx, info, offset, length)
	}
	if err := CheckRange(info, offset, length); err != nil {
		return nil, err
	}
	r, err := s.Open(ctx, info)
	if err != nil {
		return nil, err
	}
	return &rangeReader{nar: r, skip: offset, left: length}, nil
}

// CheckRange reports a range [offset, offset+length) that does not lie within info.NarSize.
func CheckRange(info *narinfo.Info, offset, length int64) error {
	if offset < 0 || length < 0 || offset > info.NarSize || length > info.NarSize-offset {
		return fmt.Errorf("store: %d bytes from %d are not within the %d of %q", length, offset, info.NarSize,
			info.StorePath)
	}
	return nil
}

// rangeReader cuts a range out of a whole NAR.
// The range's last bytes are let go only when the NAR's end has been reached, for only there it is proved.
type rangeReader struct {
	nar        io.ReadCloser
	skip, left int64
	err        error
}

func (r *rangeReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.read(p[:min(int64(len(p)), r.left)])
	r.err = err
	return n, err
}

func (r *rangeReader) read(p []byte) (int, error) {
	if r.skip > 0 {
		n, err := io.CopyN(io.Discard, r.nar, r.skip)
		r.skip -= n
		if err != nil {
			return 0, unexpected(err)
		}
	}
	n, err := r.nar.Read(p)
	r.left -= int64(n)
	if r.left > 0 {
		return n, unexpected(err)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, r.nar)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return n, nil
}

// unexpected turns an end before the range's end into an error.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("store: the NAR ends early: %w", io.ErrUnexpectedEOF)
	}
	return err
}

func (r *rangeReader) Close() error { return r.nar.Close() }
