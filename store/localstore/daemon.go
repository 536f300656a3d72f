package localstore

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// daemonSource answers through the daemon's socket.
type daemonSource struct{ pool *nixproto.Pool }

func newDaemonSource(socket string) *daemonSource {
	return &daemonSource{nixproto.NewPool(func(ctx context.Context) (*nixproto.Client, error) {
		return nixproto.Dial(ctx, socket, nil)
	}, nil)}
}

func (s *daemonSource) info(ctx context.Context, hash narinfo.HashPart, _ time.Duration) (*narinfo.Info, error) {
	path, err := s.pool.PathFromHashPart(ctx, hash)
	if err != nil {
		return nil, err
	}
	info, err := s.pool.PathInfo(ctx, path)
	if err != nil {
		return nil, err
	}
	return info.Info, nil
}

// page returns all paths of a list behind the given one.
func (s *daemonSource) page(
	ctx context.Context, l pathList, key, after narinfo.StorePath,
) (paths []narinfo.StorePath, more bool, err error) {
	switch l {
	case listAll:
		paths, err = s.pool.AllValidPaths(ctx)
	case listReferrers:
		paths, err = s.pool.Referrers(ctx, key)
		paths = slices.DeleteFunc(paths, func(p narinfo.StorePath) bool { return p == key })
	case listDerived:
		paths, err = s.derived(ctx, key)
	}
	if errors.Is(err, store.ErrNotFound) { // nobody refers to a path that is not there
		return nil, false, nil
	}
	slices.Sort(paths)
	i, _ := slices.BinarySearch(paths, after+"\x00")
	return paths[i:], false, err
}

// derived asks about every path, for the daemon's own list of a derivation's outputs needs the derivation to be valid.
func (s *daemonSource) derived(ctx context.Context, drv narinfo.StorePath) ([]narinfo.StorePath, error) {
	all, err := s.pool.AllValidPaths(ctx)
	if err != nil {
		return nil, err
	}
	var paths []narinfo.StorePath
	for _, path := range all {
		info, err := s.pool.PathInfo(ctx, path)
		switch {
		case errors.Is(err, store.ErrNotFound): // deleted meanwhile
		case err != nil:
			return nil, err
		case info.Info.Deriver == drv:
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// since returns all paths and 0, for the daemon does not tell in which order they came.
func (s *daemonSource) since(ctx context.Context, _ int64) ([]narinfo.StorePath, int64, error) {
	paths, err := s.pool.AllValidPaths(ctx)
	return paths, 0, err
}

func (s *daemonSource) realisation(ctx context.Context, id string) ([]byte, error) {
	return s.pool.Realisation(ctx, id)
}
