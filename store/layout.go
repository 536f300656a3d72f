package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// Layout returns the table of contents of the path's NAR: with the store's [LayoutOpener], or by reading the whole NAR,
// to its end even if it is malformed.
func Layout(ctx context.Context, s Store, info *narinfo.Info) (*nar.Layout, error) {
	if o, ok := s.(LayoutOpener); ok {
		return o.Layout(ctx, info)
	}
	r, err := s.Open(ctx, info)
	if err != nil {
		return nil, err
	}
	l, err := nar.ReadLayout(r)
	if err != nil {
		// What comes at the NAR's end says whether it is malformed, or not the NAR that was promised.
		_, rest := io.Copy(io.Discard, r)
		err = errors.Join(err, rest)
	}
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("store: layout of %q: %w", info.StorePath, err)
	}
	return l, nil
}
