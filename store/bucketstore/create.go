package bucketstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Create opens the binary cache in dir, which is made if it isn't there (mode 0755), as is its nix-cache-info.
// If nix-cache-info is there it stays as it is; it is an error if its StoreDir is another than info's.
// An empty info.StoreDir means /nix/store, nil options the zero value.
func Create(dir string, info narinfo.CacheInfo, o *Options) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("bucketstore: creating a binary cache: %w", err)
	}
	d, err := OpenDirectory(dir)
	if err != nil {
		return nil, err
	}
	s, err := CreateFiles(context.Background(), d, info, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%q: %w", dir, err), d.Close())
	}
	s.close = d.Close
	return s, nil
}

// CreateFiles is [Create] for files, which stay the caller's to close.
func CreateFiles(ctx context.Context, files Files, info narinfo.CacheInfo, o *Options) (*Store, error) {
	if info.StoreDir == "" {
		info.StoreDir = narinfo.DefaultStoreDir
	}
	s, err := OpenFiles(ctx, files, o)
	if errors.Is(err, store.ErrNotFound) {
		if err := writeCacheInfo(ctx, files, info, o.withDefaults().Cache); err != nil {
			return nil, fmt.Errorf("bucketstore: creating a binary cache: %w", err)
		}
		s, err = OpenFiles(ctx, files, o)
	}
	if err != nil {
		return nil, err
	}
	if s.StoreDir() != info.StoreDir {
		err := fmt.Errorf("bucketstore: this is a binary cache for %q, not %q", s.StoreDir(), info.StoreDir)
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func writeCacheInfo(ctx context.Context, files Files, info narinfo.CacheInfo, cache string) error {
	text, err := info.MarshalText()
	if err != nil {
		return err
	}
	_, err = files.Put(ctx, (&Store{name: cache}).key(cacheInfoName), bytes.NewReader(text), int64(len(text)))
	return err
}
