package httpstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/voidnxlab/nixtrap/internal/narfile"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Open returns the path's NAR, decoded, which proves itself while it is read.
// A compression that can't be decoded here is [store.ErrUnsupported].
func (s *Store) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	now, err := store.Current(ctx, s, info)
	if err != nil {
		return nil, err
	}
	src, err := s.openFile(ctx, now)
	if err != nil {
		return nil, err
	}
	return narfile.OpenNAR(ctx, now, src, func(err error) error { return s.blame(now, err) })
}

// file is a path's archive as the cache sends it.
type file struct {
	io.ReadCloser
	body *body
}

// openFile opens a path's archive. If there is none the path is absent from now on.
func (s *Store) openFile(ctx context.Context, info *narinfo.Info) (*file, error) {
	u, err := s.resolve(info.URL)
	if err != nil {
		s.condemn(info, err)
		return nil, err
	}
	b, err := s.openBody(ctx, u, archiveLimit(info))
	if errors.Is(err, store.ErrNotFound) {
		s.condemn(info, err)
	}
	if err != nil {
		return nil, err
	}
	if size := storedSize(info); size != 0 && b.encoding == "none" && b.size >= 0 && b.size != size {
		err := fmt.Errorf("httpstore: %q has %d bytes, not %d: %w", info.URL, b.size, size, store.ErrCorrupt)
		s.condemn(info, err)
		return nil, errors.Join(err, b.Close())
	}
	r, err := b.decoded()
	if err != nil {
		return nil, errors.Join(s.blame(info, err), b.Close())
	}
	return &file{r, b}, nil
}

// storedSize is what the archive must have, 0 if the narinfo does not tell.
func storedSize(info *narinfo.Info) int64 {
	if info.FileSize == 0 && info.Compression == "none" {
		return info.NarSize
	}
	return info.FileSize
}

// blame makes a path absent for a while if err says that it is damaged. It returns err.
func (s *Store) blame(info *narinfo.Info, err error) error {
	if errors.Is(err, store.ErrCorrupt) {
		s.condemn(info, err)
	}
	return err
}
