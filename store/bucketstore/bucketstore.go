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
// # Quarantine
//
// A path is in quarantine if its archive is absent or has not the promised size, which each look-up sees, or if reading
// it showed that its content is wrong or changed meanwhile. All about it is then [store.ErrNotFound].
// Look-ups see to it that the archive is read again, in the background and both hashes, when its identity or what the
// narinfo says of it has changed; where it is right the path is served again. That is once for each change, but not
// before a second has passed, and once a second more while the archive's last change is less than two seconds past.
// The logger is told of each path that goes into quarantine, once for each reason, and of each that comes out.
//
// # Limits
//
// A narinfo has at most [narinfo.MaxSize] bytes, a realisation 1 MiB.
// A decoder's memory is bounded: 128 MiB of window for zstd, 64 MiB of dictionary for xz, as much as either's highest
// level asks for. A file may have several streams of its compression, in xz with padding, as Nix takes it.
// Decoding stops one byte after NarSize, a log's after 256 MiB.
package bucketstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/voidnxlab/nixtrap/internal/background"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

const cacheInfoName = "nix-cache-info"

// Store is a binary cache. It is safe for concurrent use.
type Store struct {
	files      Files
	close      func() error // of files
	name       string       // of the cache in the bucket
	used       func(narinfo.HashPart)
	holds      func(ctx context.Context, key string) (bool, error)
	cacheInfo  narinfo.CacheInfo
	proofs     proofs
	quarantine quarantine
	background *background.Work
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
// nil options mean the zero value. The caller closes the store when nothing is read from it any more.
func Open(dir string, o *Options) (*Store, error) {
	d, err := OpenDirectory(dir)
	if err != nil {
		return nil, err
	}
	s, err := OpenFiles(context.Background(), d, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%q: %w", dir, err), d.Close())
	}
	s.close = d.Close
	return s, nil
}

// OpenFiles opens the binary cache in files, which stay the caller's to close. Else it is [Open].
func OpenFiles(ctx context.Context, files Files, o *Options) (*Store, error) {
	options := o.withDefaults()
	if options.Cache != "" && !IsCacheName(options.Cache) {
		return nil, fmt.Errorf("bucketstore: a cache cannot be named %q", options.Cache)
	}
	s := &Store{files: files, close: func() error { return nil }, name: options.Cache, used: options.Used, holds: options.Holds, background: background.New()}
	s.quarantine.log, s.quarantine.every = options.Logger, options.look
	if err := s.readCacheInfo(ctx); err != nil {
		return nil, fmt.Errorf("bucketstore: %w", err)
	}
	return s, nil
}

func (s *Store) readCacheInfo(ctx context.Context) error {
	text, err := s.readFile(ctx, s.key(cacheInfoName), 64<<10)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("no file %s, so this is no binary cache (nix copy --to file://DIR makes one): %w", cacheInfoName, err)
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

// Close closes the directory, and stops reading archives that may be right again.
// Readers that are still open stay usable.
func (s *Store) Close() error {
	s.background.Stop()
	return s.close()
}

// CacheInfo returns what nix-cache-info said when the store was opened, with StoreDir filled in.
func (s *Store) CacheInfo() narinfo.CacheInfo { return s.cacheInfo }

// StoreDir returns the directory in the store's paths, "/nix/store" for most.
func (s *Store) StoreDir() string { return s.cacheInfo.StoreDir }

// Info reads a narinfo file, and opens the archive that it names without reading it.
// A narinfo that is malformed or about another path is [store.ErrCorrupt].
// A path in quarantine (see the package comment) is [store.ErrNotFound], and [store.ErrCorrupt] too where this call put
// it there.
func (s *Store) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a, err := s.openArchiveOf(ctx, hash)
	if err != nil {
		return nil, err
	}
	s.used(hash)
	return a.info, a.Close()
}

// openArchiveOf reads a narinfo and opens its archive, unless the path is in quarantine or has to go there.
func (s *Store) openArchiveOf(ctx context.Context, hash narinfo.HashPart) (*archive, error) {
	info, err := s.readInfo(ctx, hash)
	if errors.Is(err, store.ErrNotFound) {
		s.quarantine.forget(hash)
	}
	if err != nil {
		return nil, err
	}
	a, err := s.openInfo(ctx, info)
	if err != nil {
		return nil, err
	}
	if err := s.admit(a); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// openCurrent opens the archive that info's path has now, whatever URL the caller's info has.
// Another content under the same path is not found.
func (s *Store) openCurrent(ctx context.Context, info *narinfo.Info) (*archive, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a, err := s.openArchiveOf(ctx, info.StorePath.HashPart())
	if err != nil {
		return nil, err
	}
	if now := a.info; now.StorePath != info.StorePath || now.NarHash != info.NarHash || now.NarSize != info.NarSize {
		return nil, errors.Join(notFound(string(info.StorePath)), a.Close())
	}
	return a, nil
}

// readInfo reads a narinfo file and does not ask for its archive.
func (s *Store) readInfo(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	if _, err := narinfo.ParseHashPart(string(hash)); err != nil {
		return nil, notFound(string(hash))
	}
	name := string(hash) + ".narinfo"
	text, err := s.readFile(ctx, s.key(name), narinfo.MaxSize)
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

var cacheName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}$`)

// reservedNames are what lies at a bucket's root or is asked for there.
var reservedNames = []string{"nar", "log", "realisations", "build-trace-v2", "debuginfo", "serve", "healthz", "missing-paths",
	cacheInfoName}

// IsCacheName reports whether a cache beside the one at a bucket's root can have the name: see [Options.Cache].
func IsCacheName(name string) bool {
	return cacheName.MatchString(name) && !slices.Contains(reservedNames, name) && !strings.Contains(name, "..") &&
		!strings.HasSuffix(name, ".narinfo") && !strings.HasSuffix(name, ".ls")
}

// key is where a file of this cache lies in the bucket. Archives are what all caches share: see archiveURL.
func (s *Store) key(name string) string { return path.Join(s.name, name) }

// archiveURL is what a narinfo of this cache has as the URL of an archive under key.
func (s *Store) archiveURL(key string) string {
	if s.name == "" {
		return key
	}
	return "../" + key
}

func notFound(what string) error {
	return fmt.Errorf("bucketstore: %q: %w", what[:min(len(what), 300)], store.ErrNotFound)
}

// readFile reads a file of at most limit bytes.
func (s *Store) readFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	f, err := s.files.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.State()
	if err != nil {
		return nil, err
	}
	if st.Size > limit {
		return nil, fmt.Errorf("bucketstore: %q has more than %d bytes: %w", name, limit, store.ErrCorrupt)
	}
	// Room for one byte more shows the end without growing.
	b := make([]byte, st.Size+1)
	switch n, err := io.ReadFull(f, b); {
	case err == nil:
		return nil, fmt.Errorf("bucketstore: %q grew while it was read: %w", name, store.ErrCorrupt)
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return b[:n], nil
	default:
		return nil, fmt.Errorf("bucketstore: %w", err)
	}
}
