// Package bucketstore reads a plain Nix binary cache in a directory: what "nix copy --to file://DIR" writes.
//
// [Open] opens one, [Create] makes an empty one first where there is none. The [Store] is then read with package store.
//
// # Layout
//
//	nix-cache-info                   StoreDir, WantMassQuery, Priority
//	HASHPART.narinfo                 metadata, see package narinfo
//	nar/FILEHASH.nar[.EXT]           archives, named by the SHA-256 of the file as it lies there
//	HASHPART.ls                      listings
//	log/NAME.drv                     build logs, plain or compressed
//	realisations/sha256:HEX!OUT.doi  what content-addressed derivations were realised to
//	build-trace-v2/NAME.drv/OUT.doi  the same as newer releases of Nix want to write it
//	debuginfo/BUILDID                where separate debug files are
//
// An archive may lie under any other name that its narinfo has as URL.
// Compressions are none, zstd, xz, gzip and bzip2. Others are an error for which errors.Is(err, errors.ErrUnsupported)
// is true; an archive so compressed is still handed out undecoded.
//
// # Trust
//
// Nothing in the directory is believed.
// A narinfo's StorePath must have the file's hash part and the cache's store directory.
// A decoded archive reaches its end only if its size and hash are NarSize and NarHash.
// A file handed out as it is was read in full before, once for each state of the file, and had FileHash and FileSize
// or, where the narinfo has no FileHash, decoded to NarHash and NarSize; the file's identity (device, inode, size, both
// times) is checked again after each read and before its bytes are let go. A write that leaves all of these as they
// were, within one tick of the file system's clock or through a shared mapping, is not noticed.
//
// No symlink leads out of the directory. What is neither a file nor a link to one is not found, and named pipes do not
// block.
//
// # Limits
//
// A narinfo has at most [narinfo.MaxSize] bytes, a realisation 1 MiB.
// A decoder's memory is bounded: 128 MiB of window for zstd, 64 MiB of dictionary for xz, as much as either's highest
// level asks for. An xz file has one stream. Decoding stops one byte after NarSize, a log's after 256 MiB.
package bucketstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

const cacheInfoName = "nix-cache-info"

// Store is a binary cache in a directory. Safe for concurrent use.
type Store struct {
	root      *os.Root
	cacheInfo narinfo.CacheInfo
	proofs    proofs
}

var (
	_ store.Store             = (*Store)(nil)
	_ store.RangeOpener       = (*Store)(nil)
	_ store.ArchiveOpener     = (*Store)(nil)
	_ store.FileOpener        = (*Store)(nil)
	_ store.LogOpener         = (*Store)(nil)
	_ store.RealisationOpener = (*Store)(nil)
	_ store.Lister            = (*Store)(nil)
)

// Open opens the binary cache in dir. A directory without nix-cache-info is an error.
// The caller closes the store when nothing is read from it any more.
func Open(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("bucketstore: %w", err)
	}
	s := &Store{root: root}
	if err := s.readCacheInfo(); err != nil {
		return nil, errors.Join(fmt.Errorf("bucketstore: %q: %w", dir, err), root.Close())
	}
	return s, nil
}

func (s *Store) readCacheInfo() error {
	text, err := s.readFile(cacheInfoName, 64<<10)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("no file %s, so this is no binary cache (nix copy --to file://DIR makes one)", cacheInfoName)
	}
	if err != nil {
		return err
	}
	c, err := narinfo.ParseCacheInfo(text)
	if err != nil {
		return err
	}
	if c.StoreDir == "" {
		c.StoreDir = narinfo.DefaultStoreDir
	}
	s.cacheInfo = *c
	return nil
}

// Close closes the directory. Readers that are still open stay usable.
func (s *Store) Close() error { return s.root.Close() }

// CacheInfo returns what nix-cache-info said when the store was opened, with StoreDir filled in.
func (s *Store) CacheInfo() narinfo.CacheInfo { return s.cacheInfo }

// StoreDir returns the directory in the store's paths, "/nix/store" for most.
func (s *Store) StoreDir() string { return s.cacheInfo.StoreDir }

// Info reads a narinfo file. One that is malformed or about another path is [store.ErrCorrupt].
func (s *Store) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := narinfo.ParseHashPart(string(hash)); err != nil {
		return nil, notFound(string(hash))
	}
	name := string(hash) + ".narinfo"
	text, err := s.readFile(name, narinfo.MaxSize)
	if err != nil {
		return nil, err
	}
	info, err := narinfo.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("bucketstore: %s: %w: %w", name, store.ErrCorrupt, err)
	}
	if info.StorePath.HashPart() != hash || info.StorePath.Dir() != s.StoreDir() {
		return nil, fmt.Errorf("bucketstore: %s is about %q: %w", name, info.StorePath, store.ErrCorrupt)
	}
	return info, nil
}

// current returns the metadata that the store has now for info's path, whose URL is believed more than the caller's.
// Another content under the same path is not found.
func (s *Store) current(ctx context.Context, info *narinfo.Info) (*narinfo.Info, error) {
	now, err := s.Info(ctx, info.StorePath.HashPart())
	if err != nil {
		return nil, err
	}
	if now.StorePath != info.StorePath || now.NarHash != info.NarHash || now.NarSize != info.NarSize {
		return nil, notFound(string(info.StorePath))
	}
	return now, nil
}

func notFound(what string) error {
	return fmt.Errorf("bucketstore: %q: %w", what[:min(len(what), 300)], store.ErrNotFound)
}

// openRegular opens a regular file inside the directory. Anything else under that name is not found.
func (s *Store) openRegular(name string) (*os.File, fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, nil, notFound(name)
	}
	// Without O_NONBLOCK a named pipe would block until somebody writes to it.
	f, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, openError(name, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = notFound(name)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, st, nil
}

// openError tells names under which there can't be a file from trouble.
func openError(name string, err error) error {
	for _, absent := range []error{
		fs.ErrNotExist, syscall.ENOTDIR, syscall.ENAMETOOLONG, syscall.EINVAL, syscall.ELOOP, syscall.ENXIO,
	} {
		if errors.Is(err, absent) {
			return notFound(name)
		}
	}
	return fmt.Errorf("bucketstore: %w", err)
}

// readFile reads a file of at most limit bytes.
func (s *Store) readFile(name string, limit int64) ([]byte, error) {
	f, st, err := s.openRegular(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st.Size() > limit {
		return nil, fmt.Errorf("bucketstore: %q has more than %d bytes: %w", name, limit, store.ErrCorrupt)
	}
	// Room for one byte more shows the end without growing.
	b := make([]byte, st.Size()+1)
	switch n, err := io.ReadFull(f, b); {
	case err == nil:
		return nil, fmt.Errorf("bucketstore: %q grew while it was read: %w", name, store.ErrCorrupt)
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return b[:n], nil
	default:
		return nil, fmt.Errorf("bucketstore: %w", err)
	}
}
