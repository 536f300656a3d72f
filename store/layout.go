package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// Layout returns the table of contents of the path's NAR: with the store's [LayoutOpener], or by reading the whole NAR.
func Layout(ctx context.Context, s Store, info *narinfo.Info) (*nar.Layout, error) {
	if o, ok := s.(LayoutOpener); ok {
		return o.Layout(ctx, info)
	}
	r, err := s.Open(ctx, info)
	if err != nil {
		return nil, err
	}
	l, err := nar.ReadLayout(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("store: layout of %q: %w", info.StorePath, err)
	}
	return l, nil
}
