package localstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// quarantine is a set of paths. It is safe for concurrent use.
type quarantine struct {
	mu    sync.Mutex // guards paths and their entries
	paths map[narinfo.HashPart]*confined
}

type confined struct {
	subject
	since  time.Time
	reason string
	sum    proofSum // of the files that were hashed and found wrong; zero if that has yet to be done
	looked time.Time
	busy   bool // somebody looks just now
}

// Quarantined returns the paths whose files are not what Nix's database promises, ordered by path.
func (s *Store) Quarantined() []store.Quarantined {
	s.quarantine.mu.Lock()
	defer s.quarantine.mu.Unlock()
	var all []store.Quarantined
	for _, c := range s.quarantine.paths {
		all = append(all, store.Quarantined{Path: c.path, Since: c.since, Reason: c.reason})
	}
	slices.SortFunc(all, func(a, b store.Quarantined) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return all
}

// admit fails with ErrNotFound if the path is in quarantine, and sees to it that its files are looked at again.
// It ends a quarantine that was about another content.
func (s *Store) admit(sub subject) error {
	if dir := sub.path.Dir(); dir != s.options.StoreDir {
		return gone(sub.path)
	}
	q := &s.quarantine
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.paths[sub.path.HashPart()]
	if c == nil {
		return nil
	}
	if c.narHash != sub.narHash {
		delete(q.paths, sub.path.HashPart())
		return nil
	}
	if !c.busy && time.Since(c.looked) >= s.options.ages.look {
		s.lookAgain(c)
	}
	return gone(sub.path)
}

// lookAgain starts a look at a confined path's files. It is called with the quarantine's mutex held.
func (s *Store) lookAgain(c *confined) {
	c.busy = true
	if !s.background.Start(func(ctx context.Context) { s.look(ctx, c) }) {
		c.busy = false
	}
}

// forget ends a quarantine because the path is no longer valid.
func (q *quarantine) forget(hash narinfo.HashPart) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.paths, hash)
}

// condemn puts a path into quarantine. sum is of the files that were found wrong, or zero if they changed meanwhile:
// then they are hashed at once.
func (s *Store) condemn(sub subject, sum proofSum, reason string) {
	if o := s.objects.get(sub.key()); o != nil {
		s.objects.remove(o)
	}
	q := &s.quarantine
	q.mu.Lock()
	defer q.mu.Unlock()
	hash := sub.path.HashPart()
	c := q.paths[hash]
	if c != nil && c.narHash == sub.narHash {
		if sum != (proofSum{}) {
			c.sum = sum
		}
		return
	}
	if q.paths == nil {
		q.paths = make(map[narinfo.HashPart]*confined)
	}
	now := time.Now()
	c = &confined{subject: sub, since: now, reason: reason, sum: sum, looked: now}
	q.paths[hash] = c
	s.log.Error("path quarantined", "path", sub.path, "nar_hash", sub.narHash.String(), "reason", reason)
	if sum == (proofSum{}) {
		s.lookAgain(c)
	}
}

// look hashes a confined path if its files are others than those last hashed, and frees it if they are right.
func (s *Store) look(ctx context.Context, c *confined) {
	sum, right := s.examine(ctx, c)
	q := &s.quarantine
	q.mu.Lock()
	defer q.mu.Unlock()
	c.busy, c.looked = false, time.Now()
	if q.paths[c.path.HashPart()] != c {
		return
	}
	if sum != (proofSum{}) {
		c.sum = sum
	}
	if right {
		delete(q.paths, c.path.HashPart())
		s.log.Info("path served again", "path", c.path, "nar_hash", c.narHash.String())
	}
}

// examine returns the sum of the files that it hashed, zero if it did not or they changed meanwhile.
func (s *Store) examine(ctx context.Context, c *confined) (hashed proofSum, right bool) {
	s.quarantine.mu.Lock()
	last := c.sum
	s.quarantine.mu.Unlock()
	o, err := s.scan(ctx, c.subject)
	if err != nil || o.sum == last {
		return hashed, false
	}
	if o.layout.Size() != o.narSize {
		return o.sum, false
	}
	err = s.hashWhole(ctx, o)
	switch {
	case err == nil:
		return o.sum, true
	case errors.Is(err, errWrongHash):
		return o.sum, false
	}
	return hashed, false
}

// blame decides what a reader's trouble with a path means, and returns the reader's error.
// If Nix has given the content up, the path is gone; else it is quarantined.
func (s *Store) blame(ctx context.Context, sub subject, sum proofSum, reason string) error {
	if o := s.objects.get(sub.key()); o != nil {
		s.objects.remove(o)
	}
	if s.stillValid(ctx, sub) {
		s.condemn(sub, sum, reason)
	}
	return corrupt(sub.path, reason)
}

func corrupt(path narinfo.StorePath, reason string) error {
	return &corruption{path: path, reason: reason}
}

// corruption is store.ErrCorrupt with its reason.
type corruption struct {
	path   narinfo.StorePath
	reason string
}

func (e *corruption) Error() string {
	return "localstore: path \"" + string(e.path) + "\": " + e.reason
}

func (e *corruption) Is(target error) bool { return target == store.ErrCorrupt }
