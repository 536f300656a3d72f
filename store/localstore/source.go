package localstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// source is where metadata comes from. Its methods are safe for concurrent use.
type source interface {
	// info returns what was true at some time within the given one before now; 0 is now.
	info(ctx context.Context, hash narinfo.HashPart, within time.Duration) (*narinfo.Info, error)
	// page returns the next paths of a list behind after, in order, and whether there may be more.
	page(ctx context.Context, l pathList, key, after narinfo.StorePath) (paths []narinfo.StorePath, more bool, err error)
	// since returns paths that were registered after number id, and the last one's number; none is the end.
	since(ctx context.Context, id int64) (paths []narinfo.StorePath, last int64, err error)
	realisation(ctx context.Context, id string) ([]byte, error)
}

// pathList names an enumeration of paths.
type pathList uint8

const (
	listAll       pathList = iota // every valid path; no key
	listReferrers                 // those that refer to the key
	listDerived                   // those whose deriver is the key
)

const databaseRetry = time.Second // how long an unreadable database is left alone

// sources asks the database, and the daemon where that cannot be read.
type sources struct {
	db     *dbSource     // nil: never
	daemon *daemonSource // nil: never
	log    *slog.Logger

	mu    sync.Mutex // guards all below
	using string     // what answered last
	retry time.Time  // when to try the database again
}

func newSources(o *Options) *sources {
	s := &sources{log: o.Logger}
	if !o.NoDatabase {
		s.db = newDBSource(databasePath(o), o.StoreDir)
	}
	if !o.NoDaemon {
		s.daemon = newDaemonSource(o.DaemonSocket)
	}
	return s
}

func (s *sources) close() {
	if s.db != nil {
		s.db.close()
	}
	if s.daemon != nil {
		_ = s.daemon.pool.Close()
	}
}

// ask calls f with the source that can answer.
func ask[T any](ctx context.Context, s *sources, f func(source) (T, error)) (T, error) {
	var dbErr error
	if s.databaseDue() {
		v, err := f(s.db)
		if !errors.Is(err, errDatabase) {
			s.use("database", nil)
			return v, err
		}
		dbErr = err
		s.rest()
	}
	if s.daemon == nil {
		var none T
		return none, fmt.Errorf("localstore: %w", dbErr)
	}
	v, err := f(s.daemon)
	if err == nil || errors.Is(err, store.ErrNotFound) {
		s.use("daemon", dbErr)
	}
	if err != nil && dbErr != nil && !errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("localstore: %w; and asked instead, %w", dbErr, err)
	}
	return v, err
}

func (s *sources) databaseDue() bool {
	if s.db == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.daemon == nil || !time.Now().Before(s.retry)
}

func (s *sources) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retry = time.Now().Add(databaseRetry)
}

// use logs where metadata comes from, when that changes.
func (s *sources) use(name string, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.using == name {
		return
	}
	s.using = name
	attrs := []any{"source", name}
	if why != nil {
		attrs = append(attrs, "reason", why)
	}
	s.log.Info("store metadata source", attrs...)
}

// probe finds out whether there is a store at all.
func (s *sources) probe(ctx context.Context) error {
	_, err := ask(ctx, s, func(src source) (struct{}, error) {
		if d, ok := src.(*daemonSource); ok {
			_, err := d.pool.Peer(ctx)
			return struct{}{}, err
		}
		_, err := src.info(ctx, "00000000000000000000000000000000", 0)
		if errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		return struct{}{}, err
	})
	return err
}

// noStore explains why probe failed.
func noStore(o *Options, err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case o.NoDatabase:
		return fmt.Errorf("%w: %w (is nix-daemon running?)", ErrNoStore, err)
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("localstore: %w: %w (install Nix, or name the root or state folder of a store)", ErrNoStore, err)
	}
	return fmt.Errorf("%w (run as a user who may read %s, or start nix-daemon)", err, databasePath(o))
}

// paths enumerates a list page by page, so that no caller's loop holds a connection.
func (s *sources) paths(ctx context.Context, l pathList, key narinfo.StorePath) iter.Seq2[narinfo.StorePath, error] {
	type page struct {
		paths []narinfo.StorePath
		more  bool
	}
	return func(yield func(narinfo.StorePath, error) bool) {
		var after narinfo.StorePath
		for more := true; more; {
			p, err := ask(ctx, s, func(src source) (p page, err error) {
				p.paths, p.more, err = src.page(ctx, l, key, after)
				return p, err
			})
			if err != nil {
				yield("", err)
				return
			}
			for _, path := range p.paths {
				if !yield(path, nil) {
					return
				}
				after = path
			}
			more = p.more
		}
	}
}
