package bucketstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Why a path is in quarantine. The set is closed, for an alarm is given once for each path and reason.
const (
	reasonAbsent     = "its archive is absent"
	reasonSize       = "its archive has the wrong size"
	reasonContent    = "its archive has the wrong content"
	reasonChanged    = "its archive changed while it was read"
	reasonUnreadable = "its archive cannot be read"
)

// damage is [store.ErrCorrupt] with what was seen.
type damage struct {
	name   string // of the file
	reason string
	detail string // a sentence whose subject is the file
}

func (d *damage) Error() string { return fmt.Sprintf("bucketstore: %q: %s", d.name, d.detail) }

func (d *damage) Is(target error) bool { return target == store.ErrCorrupt }

// maxLooks is how many archives are read at once to find out whether they are right again.
const maxLooks = 2

// quarantine is a set of paths. It is safe for concurrent use.
type quarantine struct {
	log   *slog.Logger
	every time.Duration // between two looks at a path

	mu      sync.Mutex // guards all below, and the entries of paths
	paths   map[narinfo.HashPart]*confined
	looking int
	looks   int // since the start
}

type confined struct {
	path    narinfo.StorePath
	promise promise
	version any // of the archive that was read and found wrong; nil if one has yet to be read
	since   time.Time
	reason  string
	looked  time.Time
	busy    bool // somebody looks just now
}

// promise is what a narinfo says of its archive.
type promise struct {
	url, compression  string
	fileHash, narHash narinfo.Hash
	fileSize, narSize int64
}

func promiseOf(i *narinfo.Info) promise {
	return promise{i.URL, i.Compression, i.FileHash, i.NarHash, i.FileSize, i.NarSize}
}

// Quarantined returns the paths whose archives are absent or not what their narinfos promise, as far as somebody has
// asked for them, ordered by path.
func (s *Store) Quarantined() []store.Quarantined {
	q := &s.quarantine
	q.mu.Lock()
	defer q.mu.Unlock()
	var all []store.Quarantined
	for _, c := range q.paths {
		all = append(all, store.Quarantined{Path: c.path, Since: c.since, Reason: c.reason})
	}
	slices.SortFunc(all, func(a, b store.Quarantined) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return all
}

// admit fails with ErrNotFound if the path is in quarantine. If its archive or its narinfo is another than the one that
// was found wrong, it sees to it that the archive is read again.
func (s *Store) admit(a *archive) error {
	info, q := a.info, &s.quarantine
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.paths[info.StorePath.HashPart()]
	if c == nil {
		return nil
	}
	known := c.version == a.state.Version && c.promise == promiseOf(info)
	if !known && !c.busy && q.looking < maxLooks && time.Since(c.looked) >= q.every {
		started := s.background.Start(func(ctx context.Context) { s.look(ctx, c, info) })
		if started {
			c.busy = true
			q.looking++
		}
	}
	return notFound(string(info.StorePath))
}

// look reads a confined path's archive in full, and frees the path if it is right.
func (s *Store) look(ctx context.Context, c *confined, info *narinfo.Info) {
	err := s.examine(ctx, info)
	q := &s.quarantine
	if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrNotFound) {
		q.condemn(info, nil, &damage{info.URL, reasonUnreadable, err.Error()})
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.looking--
	q.looks++
	c.busy, c.looked = false, time.Now()
	if hash := info.StorePath.HashPart(); err == nil && q.paths[hash] == c {
		delete(q.paths, hash)
		q.log.Info("path served again", "path", info.StorePath, "nar_hash", info.NarHash.String())
	}
}

// examine reads a path's archive as often as it takes to tell that both of its hashes are right.
// What it finds wrong it puts into quarantine.
func (s *Store) examine(ctx context.Context, info *narinfo.Info) error {
	a, err := s.openInfo(ctx, info)
	if err != nil {
		return err
	}
	defer a.Close()
	if hasFileHash(info) {
		if err := s.prove(ctx, a); err != nil {
			return err
		}
	}
	if err := s.decode(ctx, a); err != nil && !errors.Is(err, store.ErrUnsupported) {
		return err
	}
	if now, err := a.State(); err != nil || now.Version != a.state.Version {
		return s.blame(ctx, a, reasonChanged, "changed while it was read")
	}
	return nil
}

// blame returns what is wrong with an archive that was read, and puts its path into quarantine, unless that has
// another archive by now.
func (s *Store) blame(ctx context.Context, a *archive, reason, format string, args ...any) error {
	d := &damage{a.name, reason, fmt.Sprintf(format, args...)}
	if a.info == nil {
		return d
	}
	s.proofs.forget(proof{a.name, a.state.Version, a.info.FileHash})
	s.proofs.forget(proof{a.name, a.state.Version, a.info.NarHash})
	now, err := s.readInfo(context.WithoutCancel(ctx), a.info.StorePath.HashPart())
	if errors.Is(err, store.ErrNotFound) || err == nil && promiseOf(now) != promiseOf(a.info) {
		return d
	}
	version := a.state.Version
	if after, err := a.State(); err != nil || after.Version != version || a.state.Unsettled {
		version = nil // what was read is not what the file is now, or may become without a trace
	}
	s.quarantine.condemn(a.info, version, d)
	return d
}

// missing puts a path into quarantine for an archive that need not be read.
// Its error is ErrNotFound, and ErrCorrupt too if that is news.
func (s *Store) missing(info *narinfo.Info, d *damage) error {
	if s.quarantine.condemn(info, nil, d) {
		return fmt.Errorf("%w (%w)", d, store.ErrNotFound)
	}
	return notFound(string(info.StorePath))
}

// condemn puts a path into quarantine. version is that of an archive that was read and need not be again, or nil.
// It reports whether that is news, and then logs it.
func (q *quarantine) condemn(info *narinfo.Info, version any, d *damage) (news bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	hash, now := info.StorePath.HashPart(), time.Now()
	c := q.paths[hash]
	if c == nil {
		c = &confined{path: info.StorePath, since: now, looked: now}
		if q.paths == nil {
			q.paths = make(map[narinfo.HashPart]*confined)
		}
		q.paths[hash] = c
	}
	c.promise, c.version = promiseOf(info), version
	if c.reason == d.reason {
		return false
	}
	c.reason = d.reason
	q.log.Error("path quarantined", "path", info.StorePath, "nar_hash", info.NarHash.String(), "reason", d.reason,
		"archive", d.name, "detail", d.detail)
	return true
}

// forget ends a quarantine because the path has no narinfo any more.
func (q *quarantine) forget(hash narinfo.HashPart) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.paths, hash)
}
