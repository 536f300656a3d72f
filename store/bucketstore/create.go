package bucketstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Create opens the binary cache in dir, which is made if it isn't there (mode 0755), as is its nix-cache-info.
// If nix-cache-info is there it stays as it is; it is an error if its StoreDir is another than info's.
// An empty info.StoreDir means /nix/store, nil options the zero value.
func Create(dir string, info narinfo.CacheInfo, o *Options) (*Store, error) {
	if info.StoreDir == "" {
		info.StoreDir = narinfo.DefaultStoreDir
	}
	if err := writeCacheInfo(dir, info); err != nil {
		return nil, fmt.Errorf("bucketstore: creating a binary cache: %w", err)
	}
	s, err := Open(dir, o)
	if err != nil {
		return nil, err
	}
	if s.StoreDir() != info.StoreDir {
		err := fmt.Errorf("bucketstore: %q is a binary cache for %q, not %q", dir, s.StoreDir(), info.StoreDir)
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// writeCacheInfo publishes the file whole or not at all, and never over another.
func writeCacheInfo(dir string, info narinfo.CacheInfo) error {
	text, err := info.MarshalText()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Lstat(cacheInfoName); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temp := fmt.Sprintf(".%s.%d", cacheInfoName, os.Getpid())
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = root.Remove(temp) }()
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// A link, not a rename: of two processes that create the same cache the second finds the first one's file.
	if err := root.Link(temp, cacheInfoName); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
