package artefact

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

const (
	extraJobs  = 2  // besides one for each encoder: one reads while another is written
	maxDirects = 16 // readers that each hold a compressed frame
)

var errClosed = errors.New("artefact: the cache is closed")

// Cache is a folder of artefacts. It is safe for concurrent use.
type Cache struct {
	dir     string // "": nothing is kept
	opts    Options
	log     *slog.Logger
	frames  *frames
	slots   chan struct{} // one element for each job that runs
	directs chan struct{} // one for each archive that is compressed into its reader
	lock    *os.File
	running sync.WaitGroup // jobs

	mu      sync.Mutex // guards all below, and the fields of jobs, artefacts and claims that say so
	closed  bool
	used    int64                      // bytes on disk, as charge counts them
	byNAR   map[narinfo.Hash]*artefact // finished ones
	recent  list.List                  // of *artefact, the one used last in front
	jobs    map[narinfo.Hash]*job
	refused map[narinfo.Hash]time.Time // NARs that the budget had no room for, until when
	trouble trouble                    // of the disk
	stats   Stats
}

// Stats are counts since Open, and the present state.
type Stats struct {
	Bytes, Budget int64 // on disk, growing files included; the most that they may be
	Artefacts     int   // finished ones
	Running       int   // jobs, waiting ones included
	Hits          int64 // finished artefacts that were opened
	Joined        int64 // growing ones that were opened by others than the first
	Made          int64
	Failed        int64 // jobs without a result
	Direct        int64 // archives that were compressed for one reader
	Evicted       int64
	Damaged       int64
}

// Open opens the cache in a folder, which is made if need be, and removes what a crash left half-done.
// With dir "" nothing is kept: every archive is compressed anew, straight into its reader.
// It fails if another process, or another Cache, has the folder open. The caller closes it. opts are copied.
func Open(dir string, opts *Options) (*Cache, error) {
	c := &Cache{dir: dir, byNAR: make(map[narinfo.Hash]*artefact), jobs: make(map[narinfo.Hash]*job),
		refused: make(map[narinfo.Hash]time.Time)}
	if opts != nil {
		c.opts = *opts
	}
	if err := c.opts.complete(); err != nil {
		return nil, err
	}
	f, err := newFrames(c.opts.Encoders)
	if err != nil {
		return nil, err
	}
	c.frames, c.log = f, c.opts.Logger
	c.slots = make(chan struct{}, c.opts.Encoders+extraJobs)
	c.directs = make(chan struct{}, maxDirects)
	if dir == "" {
		return c, nil
	}
	if err := c.openFolder(); err != nil {
		return nil, errors.Join(err, c.unlock())
	}
	return c, nil
}

func (c *Cache) openFolder() error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("artefact: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(c.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("artefact: %w", err)
	}
	c.lock = lock
	switch err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("artefact: folder %q is in use by another cache", c.dir)
	case err != nil:
		return fmt.Errorf("artefact: lock %q: %w", c.dir, err)
	}
	return c.scan()
}

func (c *Cache) unlock() error {
	if c.lock == nil {
		return nil
	}
	return c.lock.Close()
}

// Close stops all jobs, waits for them, and lets another process have the folder.
// What was handed out stays open until it is closed; files that were growing fail. A second Close does nothing.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	for _, j := range c.jobs {
		j.cancel()
	}
	c.mu.Unlock()
	c.running.Wait()
	c.frames.close()
	return c.unlock()
}

// Encoder returns the name of the encoder: lower-case letters and digits. It changes when the bytes do.
func (c *Cache) Encoder() string { return encoderID }

// Describe reports whether the path's artefact can be had just now without compressing it for this client alone.
// It sets info.FileHash and FileSize to the artefact's, or to nothing if they are not known yet.
func (c *Cache) Describe(info *narinfo.Info) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.byNAR[info.NarHash]; a != nil {
		info.FileHash, info.FileSize = a.fileHash, a.size
		return true
	}
	if !c.hasRoom(info.NarHash) {
		return false
	}
	info.FileHash, info.FileSize = narinfo.Hash{}, 0
	return true
}

// Stats returns the cache's state and counters.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Bytes, s.Budget, s.Artefacts, s.Running = c.used, c.opts.Budget, len(c.byNAR), len(c.jobs)
	if c.dir == "" {
		s.Budget = 0
	}
	return s
}

// Open opens the artefact of the path in s that info describes, and has it made if need be.
// It returns when the first bytes are there. The caller closes the file; reading it ends when ctx does.
//
// A finished artefact has its Size and Hash, and its Source.
// Of one that grows Size is -1; reads wait for bytes, and a Seek relative to the end waits until all are there.
// One that is compressed for this reader alone has Size -1 and cannot Seek.
// The error of the store is returned as it is, by Open or by Read, if the NAR cannot be read or is not what info says.
func (c *Cache) Open(ctx context.Context, s store.Store, info *narinfo.Info) (*store.File, error) {
	for try := range 4 { // a damaged artefact is made anew; damage again and again is no longer ours to mend
		f, err := c.open(ctx, s, info, try == 0)
		if !errors.Is(err, errTryAgain) {
			return f, err
		}
	}
	return c.direct(ctx, s, info)
}

var errTryAgain = errors.New("artefact: try again")

func (c *Cache) open(ctx context.Context, s store.Store, info *narinfo.Info, first bool) (*store.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	switch a := c.byNAR[info.NarHash]; {
	case c.closed:
		c.mu.Unlock()
		return nil, errClosed
	case a != nil:
		a.claim.users++
		c.recent.MoveToFront(a.place)
		if first {
			c.stats.Hits++
		}
		c.mu.Unlock()
		if hit := c.opts.Trace.Hit; hit != nil && first {
			hit(info.StorePath)
		}
		return c.openFinished(ctx, a)
	case !c.hasRoom(info.NarHash):
		c.mu.Unlock()
		return c.direct(ctx, s, info)
	}
	j, joined := c.jobs[info.NarHash], true
	if j == nil {
		j, joined = c.start(s, info), false
	}
	j.waiters++
	c.mu.Unlock()
	return c.join(ctx, j, joined)
}

// join waits for the first bytes of a job and opens what it makes. Its caller has counted itself as a waiter.
func (c *Cache) join(ctx context.Context, j *job, joined bool) (*store.File, error) {
	defer c.leave(j)
	size, ended, err := j.await(ctx, 0)
	if err != nil {
		if _, ok := errors.AsType[diskError](err); ok {
			return c.direct(ctx, j.store, j.info) // the NAR itself is as good as ever
		}
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byNAR[j.info.NarHash] != nil || j.over {
		return nil, errTryAgain
	}
	if joined {
		c.stats.Joined++
		if joined := c.opts.Trace.Joined; joined != nil {
			joined(j.info.StorePath)
		}
	}
	j.readers++
	j.claim.users++
	f := &store.File{ReadSeekCloser: &growing{c: c, j: j, ctx: ctx}, Size: -1}
	if ended {
		f.Size, f.Hash = size, j.hash
	}
	return f, nil
}

// leave ends a wait. A job that has to wait itself is given up with its last client.
func (c *Cache) leave(j *job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	j.waiters--
	if j.waiters == 0 && !j.began {
		j.cancel()
		c.forget(j)
	}
}

func (c *Cache) forget(j *job) {
	if c.jobs[j.info.NarHash] == j {
		delete(c.jobs, j.info.NarHash)
	}
}

var _ io.ReadSeekCloser = (*growing)(nil)
