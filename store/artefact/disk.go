package artefact

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/narinfo"
)

const (
	tempPrefix = "tmp-"
	suffix     = ".zst"
	block      = 4096 // what a file takes at least, on most file systems
)

// errNoRoom is a budget that nothing more can be removed from.
var errNoRoom = errors.New("artefact: no room in the budget")

// diskError is a failure of the cache's folder, which says nothing of the NAR.
type diskError struct{ error }

func (e diskError) Unwrap() error { return e.error }

// claim is a file's share of the budget. It is guarded by Cache.mu.
type claim struct {
	bytes int64 // as charge counts them
	users int   // who has the file open, or writes it
	gone  bool  // it has no name any more: its last user frees its bytes
}

// charge is how much of the budget a file of the given size takes.
func charge(size int64) int64 { return (size + block - 1) / block * block }

// release ends a use of a file. It is called with the mutex held, after the file has been closed.
func (c *Cache) release(cl *claim) {
	if cl.users--; cl.users == 0 && cl.gone {
		c.used -= cl.bytes
		cl.bytes = 0
	}
}

// reserve makes room for a file to grow to size.
func (c *Cache) reserve(cl *claim, size int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	more := charge(size) - cl.bytes
	if !c.makeRoom(more) {
		return diskError{errNoRoom}
	}
	c.used += more
	cl.bytes += more
	return nil
}

// makeRoom removes artefacts that nobody reads, least recently used first, until n more bytes fit.
// It is called with the mutex held.
func (c *Cache) makeRoom(n int64) bool {
	for e := c.recent.Back(); c.used+n > c.opts.Budget; {
		if e == nil {
			return false
		}
		a := e.Value.(*artefact)
		e = e.Prev()
		if a.claim.users > 0 {
			continue
		}
		c.remove(a)
		c.stats.Evicted++
		if evicted := c.opts.Trace.Evicted; evicted != nil {
			evicted(a.narHash, a.size)
		}
	}
	return true
}

// remove takes an artefact out of the cache, once. One that cannot be unlinked goes on to count.
// It is called with the mutex held.
func (c *Cache) remove(a *artefact) {
	if a.claim.gone {
		return
	}
	c.recent.Remove(a.place)
	delete(c.byNAR, a.narHash)
	a.claim.gone = true
	a.claim.users++
	if err := os.Remove(c.path(a)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.log.Error("artefact not removed", "file", a.name(), "error", err)
		return
	}
	c.release(a.claim)
}

// add takes a finished artefact in. It is called with the mutex held, or by Open.
func (c *Cache) add(a *artefact) {
	a.proving = make(chan struct{}, 1)
	a.place = c.recent.PushFront(a)
	c.byNAR[a.narHash] = a
}

// publish gives a job's file its name, for good.
func (c *Cache) publish(j *job) error {
	a := &artefact{narHash: j.info.NarHash, fileHash: j.hash, size: j.size, claim: j.claim}
	if err := j.file.Sync(); err != nil {
		return diskError{err}
	}
	if err := os.Rename(j.file.Name(), c.path(a)); err != nil {
		return diskError{err}
	}
	if err := syncFolder(c.dir); err != nil {
		return diskError{errors.Join(err, os.Remove(c.path(a)))}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(a)
	if c.trouble.told {
		c.log.Info("the artefact cache keeps archives again", "folder", c.dir)
	}
	c.trouble = trouble{}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// scan takes in what a former process left: artefacts by their names, the one used last in front.
func (c *Cache) scan() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("artefact: %w", err)
	}
	var found []*artefact
	for _, e := range entries {
		file := filepath.Join(c.dir, e.Name())
		a, ours := parseName(e.Name())
		switch {
		case strings.HasPrefix(e.Name(), tempPrefix) || ours && a == nil:
			if err := os.Remove(file); err != nil {
				return fmt.Errorf("artefact: %w", err)
			}
		case ours:
			var st unix.Stat_t
			if err := unix.Lstat(file, &st); err != nil {
				return fmt.Errorf("artefact: %q: %w", file, err)
			}
			a.size, a.used = st.Size, max(st.Atim.Nano(), st.Mtim.Nano())
			a.claim = &claim{bytes: charge(a.size)}
			found = append(found, a)
		}
	}
	slices.SortFunc(found, func(a, b *artefact) int { return cmp.Compare(a.used, b.used) })
	for _, a := range found {
		if older := c.byNAR[a.narHash]; older != nil {
			c.remove(older)
		}
		c.used += a.claim.bytes
		c.add(a)
	}
	c.makeRoom(0)
	return nil
}

// parseName reads an artefact's name. ours without an artefact is one of another encoder.
func parseName(name string) (a *artefact, ours bool) {
	base, ok := strings.CutSuffix(name, suffix)
	parts := strings.Split(base, "-")
	if !ok || len(parts) != 3 {
		return nil, false
	}
	narHash, err := narinfo.ParseDigest(narinfo.SHA256, parts[0])
	fileHash, err2 := narinfo.ParseDigest(narinfo.SHA256, parts[2])
	if err != nil || err2 != nil {
		return nil, false
	}
	if a = (&artefact{narHash: narHash, fileHash: fileHash}); a.name() != name {
		return nil, parts[1] != encoderID
	}
	return a, true
}

// trouble is what is known of a disk that could not be written to. It is guarded by Cache.mu.
type trouble struct {
	until time.Time // when to try again
	told  bool
}

// maxRefused bounds the memory of NARs that there was no room for.
const maxRefused = 1 << 12

// hasRoom reports whether an archive may be begun. It is called with the mutex held.
func (c *Cache) hasRoom(narHash narinfo.Hash) bool {
	if c.dir == "" {
		return false
	}
	now := time.Now()
	if until, refused := c.refused[narHash]; refused {
		if now.Before(until) {
			return false
		}
		delete(c.refused, narHash)
	}
	return !now.Before(c.trouble.until)
}

// avoidDisk remembers a failure, so that what cannot be kept is not begun. It is called with the mutex held.
func (c *Cache) avoidDisk(j *job, err diskError) {
	if !errors.Is(err, errNoRoom) {
		if !c.trouble.told {
			c.log.Warn("the artefact cache cannot write: archives are offered uncompressed until it can",
				"folder", c.dir, "error", err)
		}
		c.trouble = trouble{until: time.Now().Add(c.opts.pause), told: true}
		return
	}
	if len(c.refused) >= maxRefused {
		clear(c.refused)
	}
	wait, alone := c.opts.pause, j.claim.bytes == c.used
	if alone {
		wait = 100 * 365 * 24 * time.Hour // for the budget is what it is
	}
	c.refused[j.info.NarHash] = time.Now().Add(wait)
	c.log.Warn("no room in the artefact cache's budget: this archive is offered uncompressed", "path",
		j.info.StorePath, "nar_size", j.info.NarSize, "budget", c.opts.Budget, "larger_than_budget", alone)
}
