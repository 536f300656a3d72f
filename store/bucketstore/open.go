package bucketstore

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
func (s *Store) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	a, err := s.openCurrent(ctx, info)
	if err != nil {
		return nil, err
	}
	return s.openNAR(ctx, a, a)
}

// OpenRange returns a part of the path's NAR. An archive stored without compression is read in place once it is proved;
// any other is decoded from its beginning to its end.
func (s *Store) OpenRange(ctx context.Context, info *narinfo.Info, offset, length int64) (io.ReadCloser, error) {
	if err := store.CheckRange(info, offset, length); err != nil {
		return nil, err
	}
	a, err := s.openCurrent(ctx, info)
	if err != nil {
		return nil, err
	}
	if a.info.Compression != "none" {
		if err := a.Close(); err != nil {
			return nil, fmt.Errorf("bucketstore: %w", err)
		}
		return store.OpenRange(ctx, struct{ store.Store }{s}, info, offset, length)
	}
	if err := s.prove(ctx, a); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	if _, err := a.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	f := s.proved(ctx, a)
	return &section{io.LimitedReader{R: f, N: length}, f}, nil
}

type section struct {
	io.LimitedReader
	io.Closer
}

// openNAR returns the NAR in src, a's file from its beginning. It takes src over, and blames a for what is wrong.
func (s *Store) openNAR(ctx context.Context, a *archive, src io.ReadCloser) (io.ReadCloser, error) {
	return narfile.OpenNAR(ctx, a.info, src, func(err error) error {
		if d, ok := errors.AsType[*narfile.Damage](err); ok {
			return s.blame(ctx, a, reasonContent, "the NAR in it %s", d.How)
		}
		return fmt.Errorf("bucketstore: %q: %w", a.name, err)
	})
}
