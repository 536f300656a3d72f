package localstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

const (
	buildIDDir    = "lib/debug/.build-id"
	maxBuildIDs   = 1 << 20 // some 150 MiB
	maxBuildIDLen = 64      // bytes; 20 are usual
	daemonWalk    = time.Minute
)

// debugIndex knows which path has the separate debug files of which build. It grows with the database.
type debugIndex struct {
	flights flights[struct{}, struct{}]

	mu    sync.Mutex                   // guards all below
	paths map[string]narinfo.StorePath // by build id, in bytes
	last  int64                        // number of the last path that was looked at
	full  bool
	rest  time.Time // until when the daemon's paths are not all looked at again
	epoch int       // counts resets: work that began before one counts for nothing
}

// DebugInfo finds the debug file of a build. The index over all paths is made by the first call,
// at a few microseconds a path, and continued by later ones where the database left off.
// It goes on being made if the caller's context ends and another waits for it too.
// Where the daemon answers, which numbers no paths, all are looked at again once a minute.
func (s *Store) DebugInfo(ctx context.Context, buildID string) (narinfo.StorePath, string, error) {
	notFound := fmt.Errorf("localstore: debug info of build %q: %w", buildID, store.ErrNotFound)
	id, err := hex.DecodeString(buildID)
	if err != nil || buildID != strings.ToLower(buildID) || len(id) < 2 || len(id) > maxBuildIDLen {
		return "", "", notFound
	}
	member := buildIDDir + "/" + buildID[:2] + "/" + buildID[2:] + ".debug"
	// A second look, for the first may have joined work that was past a new path, or found one that is gone.
	for range 2 {
		if err := s.growDebugIndex(ctx); err != nil {
			return "", "", err
		}
		path, full := s.debug.lookup(string(id))
		if path == "" {
			if full {
				return "", "", errors.New("localstore: too many debug files for the index")
			}
			continue
		}
		info, err := s.Info(ctx, path.HashPart())
		switch {
		case err == nil && info.StorePath == path && s.hasFile(path, member):
			return path, member, nil
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return "", "", err
		}
		s.debug.reset() // another path may have the same file
	}
	return "", "", notFound
}

func (s *Store) growDebugIndex(ctx context.Context) error {
	_, err := s.debug.flights.do(ctx, s.background, struct{}{}, func(ctx context.Context) (none struct{}, err error) {
		for {
			last, epoch, resting := s.debug.position()
			if resting {
				return none, nil
			}
			paths, err := ask(ctx, s.sources, func(src source) (paths []narinfo.StorePath, err error) {
				paths, last, err = src.since(ctx, last)
				return paths, err
			})
			if err != nil || len(paths) == 0 {
				return none, err
			}
			for _, path := range paths {
				if ctx.Err() != nil {
					return none, ctx.Err()
				}
				s.debug.add(epoch, path, buildIDsOf(filepath.Join(s.options.RealStoreDir, path.Base())))
			}
			s.debug.advance(epoch, last)
			if last == 0 {
				return none, nil // from the daemon, that was all
			}
		}
	})
	return err
}

// buildIDsOf lists the build ids, in bytes, that the path at real has debug files of. A folder that is a symlink,
// and so not in the archive, has none.
func buildIDsOf(real string) (ids []string) {
	dir := filepath.Join(real, buildIDDir)
	heads, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for d := dir; d != real; d = filepath.Dir(d) {
		if st, err := os.Lstat(d); err != nil || !st.IsDir() {
			return nil
		}
	}
	for _, head := range heads {
		if !head.IsDir() || len(head.Name()) != 2 {
			continue
		}
		files, _ := os.ReadDir(filepath.Join(dir, head.Name()))
		for _, file := range files {
			rest, ok := strings.CutSuffix(file.Name(), ".debug")
			id, err := hex.DecodeString(head.Name() + rest)
			if ok && err == nil && file.Type().IsRegular() && len(id) <= maxBuildIDLen {
				ids = append(ids, string(id))
			}
		}
	}
	return ids
}

func (s *Store) hasFile(path narinfo.StorePath, member string) bool {
	st, err := os.Lstat(filepath.Join(s.options.RealStoreDir, path.Base(), member))
	return err == nil && st.Mode().IsRegular()
}

func (x *debugIndex) lookup(id string) (path narinfo.StorePath, full bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.paths[id], x.full
}

func (x *debugIndex) position() (last int64, epoch int, resting bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.last, x.epoch, time.Now().Before(x.rest)
}

// advance notes how far the index has come: to a number, or 0 through all that the daemon has.
func (x *debugIndex) advance(epoch int, last int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if epoch != x.epoch {
		return
	}
	if x.last = last; last == 0 {
		x.rest = time.Now().Add(daemonWalk)
	}
}

func (x *debugIndex) add(epoch int, path narinfo.StorePath, ids []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if epoch != x.epoch {
		return
	}
	if x.paths == nil {
		x.paths = make(map[string]narinfo.StorePath)
	}
	for _, id := range ids {
		if len(x.paths) >= maxBuildIDs {
			x.full = true
			return
		}
		x.paths[id] = path
	}
}

func (x *debugIndex) reset() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.paths, x.last, x.full, x.rest = nil, 0, false, time.Time{}
	x.epoch++
}
