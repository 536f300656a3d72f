package localstore

import (
	"bufio"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// OpenLog returns a derivation's build log, decoded.
// It is drvs/AB/REST below the log folder (AB being the base name's first two characters), or drvs/BASE as old Nix
// had it, each plain or as .bz2; the first of these that exists.
// The log of a build that is under way ends where the file ends, or with io.ErrUnexpectedEOF within compressed data.
func (s *Store) OpenLog(_ context.Context, drv narinfo.StorePath) (io.ReadCloser, error) {
	notFound := fmt.Errorf("localstore: log of %q: %w", drv, store.ErrNotFound)
	base := drv.Base()
	if !drv.IsDerivation() || drv.Dir() != s.options.StoreDir {
		return nil, notFound
	}
	dir := filepath.Join(s.options.LogDir, "drvs")
	split := filepath.Join(dir, base[:2], base[2:])
	flat := filepath.Join(dir, base)
	for _, name := range []string{split, split + ".bz2", flat, flat + ".bz2"} {
		f, err := os.Open(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, fmt.Errorf("localstore: log: %w", err)
		case filepath.Ext(name) == ".bz2":
			return &decodedLog{bzip2.NewReader(bufio.NewReaderSize(f, 64<<10)), f}, nil
		}
		return f, nil
	}
	return nil, notFound
}

type decodedLog struct {
	io.Reader
	io.Closer
}
