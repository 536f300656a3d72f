package localstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/internal/background"
	"github.com/voidnxlab/nixtrap/internal/buffer"
	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

var errClosed = errors.New("localstore: store is closed")

var (
	_ store.Store             = (*Store)(nil)
	_ store.RangeOpener       = (*Store)(nil)
	_ store.LayoutOpener      = (*Store)(nil)
	_ store.LogOpener         = (*Store)(nil)
	_ store.Referrers         = (*Store)(nil)
	_ store.Lister            = (*Store)(nil)
	_ store.Derivers          = (*Store)(nil)
	_ store.DebugInfoFinder   = (*Store)(nil)
	_ store.RealisationOpener = (*Store)(nil)
)

// Store is a Nix store on this machine. It is safe for concurrent use. See the package comment for what it promises.
type Store struct {
	options Options // complete
	log     *slog.Logger
	sources *sources

	objects    *objects
	loads      flights[objectKey, *object]
	proving    flights[objectKey, *object]
	proofs     *proofBook
	quarantine quarantine
	debug      debugIndex
	memory     *memory
	looking    sync.Mutex // held while files in memory are compared with those on disk
	buffers    buffer.Pool
	background *background.Work
}

// Open opens a store; nil options mean the machine's own.
// It asks the database or the daemon once, and fails with [ErrNoStore] where there is neither.
// Close releases it.
func Open(ctx context.Context, o *Options) (*Store, error) {
	options, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{
		options:    *options,
		log:        options.Logger,
		sources:    newSources(options),
		memory:     newMemory(options.MemoryCache),
		background: background.New(),
	}
	s.objects = newObjects(options.LayoutCache, s.memory.drop)
	if err := s.open(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	if err := s.sources.probe(ctx); err != nil {
		return noStore(&s.options, err)
	}
	if dir, err := os.Stat(s.options.RealStoreDir); err != nil || !dir.IsDir() {
		return fmt.Errorf("localstore: %w: no folder %q (name the folder that holds the files)",
			ErrNoStore, s.options.RealStoreDir)
	}
	s.proofs, err = openProofs(s.options.ProofFile, s.log)
	return err
}

// Close stops what runs in the background and closes the database. Readers that are open stay usable.
// A second Close does nothing.
func (s *Store) Close() error {
	s.background.Stop()
	s.sources.close()
	s.memory.close()
	if s.proofs == nil {
		return nil
	}
	return s.proofs.close()
}

func databasePath(o *Options) string { return filepath.Join(o.StateDir, "db/db.sqlite") }

// StoreDir returns the directory in the store's paths.
func (s *Store) StoreDir() string { return s.options.StoreDir }

// Info returns what the database says, or said within the last millisecond. A quarantined path is [store.ErrNotFound].
func (s *Store) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	info, err := ask(ctx, s.sources, func(src source) (*narinfo.Info, error) {
		return src.info(ctx, hash, s.options.ages.info)
	})
	if errors.Is(err, store.ErrNotFound) {
		s.quarantine.forget(hash)
	}
	if err == nil {
		err = s.admit(s.subject(info))
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

// Open returns the path's NAR. The reader is an io.WriterTo, which is the fastest way to copy it.
// It holds up to 1 MiB of memory and two descriptors, and reads no more once ctx has ended.
func (s *Store) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	o, err := s.object(ctx, s.subject(info))
	if err != nil {
		return nil, err
	}
	return s.newStream(ctx, o, 0, o.narSize)
}

// OpenRange returns a part of the path's NAR. Of a path without a proof, the whole is hashed first.
func (s *Store) OpenRange(ctx context.Context, info *narinfo.Info, offset, length int64) (io.ReadCloser, error) {
	if err := store.CheckRange(info, offset, length); err != nil {
		return nil, err
	}
	o, err := s.object(ctx, s.subject(info))
	if err == nil && o.narSize != info.NarSize {
		return nil, gone(info.StorePath)
	}
	if err == nil && !o.proved.Load() && o.settledBefore(time.Now(), s.options.ages.proof) {
		o, err = s.prove(ctx, o.subject)
	}
	if err != nil {
		return nil, err
	}
	return s.newStream(ctx, o, offset, length)
}

// Layout returns the path's table of contents. Of a path without a proof, the whole is hashed first.
func (s *Store) Layout(ctx context.Context, info *narinfo.Info) (*nar.Layout, error) {
	o, err := s.prove(ctx, s.subject(info))
	if err != nil {
		return nil, err
	}
	return o.layout, nil
}

// Referrers yields the valid paths that refer to path.
func (s *Store) Referrers(ctx context.Context, path narinfo.StorePath) iter.Seq2[narinfo.StorePath, error] {
	return s.sources.paths(ctx, listReferrers, path)
}

// Paths yields all valid paths, quarantined ones too.
func (s *Store) Paths(ctx context.Context) iter.Seq2[narinfo.StorePath, error] {
	return s.sources.paths(ctx, listAll, "")
}

// DerivedPaths yields the valid paths whose deriver is drv, which need not be valid itself.
// Nix keeps no index of derivers, so each thousand results read the whole table (about 30 ms for 100,000 paths).
// Where the daemon answers, it is asked about every path.
func (s *Store) DerivedPaths(ctx context.Context, drv narinfo.StorePath) iter.Seq2[narinfo.StorePath, error] {
	return s.sources.paths(ctx, listDerived, drv)
}

// Registered returns the next paths, at most a thousand, that became valid after the one with the given number, in that
// order, and the number of the last of them; no paths and the given number are the end. 0 begins with the oldest.
// Numbers are Nix's own, never given twice in one database. Quarantined paths are among them.
// Where the daemon answers, which numbers no paths, the error is [store.ErrUnsupported].
func (s *Store) Registered(ctx context.Context, after int64) (paths []narinfo.StorePath, last int64, err error) {
	paths, err = ask(ctx, s.sources, func(src source) (paths []narinfo.StorePath, err error) {
		if _, unnumbered := src.(*daemonSource); unnumbered {
			return nil, fmt.Errorf("localstore: the daemon numbers no paths: %w", store.ErrUnsupported)
		}
		paths, last, err = src.since(ctx, after)
		return paths, err
	})
	return paths, last, err
}

// Realisation returns what a file realisations/ID.doi of a binary cache holds.
func (s *Store) Realisation(ctx context.Context, id string) ([]byte, error) {
	return ask(ctx, s.sources, func(src source) ([]byte, error) { return src.realisation(ctx, id) })
}

// subject is a path with the content that it promises.
type subject struct {
	path    narinfo.StorePath
	real    string // where its files are
	narHash narinfo.Hash
	narSize int64
}

func (s *Store) subject(info *narinfo.Info) subject {
	return subject{
		path:    info.StorePath,
		real:    filepath.Join(s.options.RealStoreDir, info.StorePath.Base()),
		narHash: info.NarHash,
		narSize: info.NarSize,
	}
}

func (s subject) key() objectKey { return objectKey{s.path, s.narHash} }

// stillValid asks whether Nix still promises this content. If it cannot be asked, the answer is yes.
func (s *Store) stillValid(ctx context.Context, sub subject) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), busyTimeout)
	defer cancel()
	hash := sub.path.HashPart()
	info, err := ask(ctx, s.sources, func(src source) (*narinfo.Info, error) { return src.info(ctx, hash, 0) })
	if err != nil {
		return !errors.Is(err, store.ErrNotFound)
	}
	return info.StorePath == sub.path && info.NarHash == sub.narHash
}

func gone(path narinfo.StorePath) error {
	return fmt.Errorf("localstore: path %q: %w", path, store.ErrNotFound)
}
