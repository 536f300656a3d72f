package artefact

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// queued is how many frames of a job may be compressed and wait for their turn to be written. All but the first and the
// last are large, so memory sets the limit before.
const queued = 64

// job makes one artefact, for everybody who asks for it.
type job struct {
	store  store.Store
	info   *narinfo.Info
	cancel context.CancelFunc

	file *os.File // set before the first bytes are announced
	sum  hash.Hash

	// Guarded by Cache.mu:
	claim   *claim // of the file's bytes
	waiters int    // calls of Open that wait for the first bytes
	readers int    // of file, the job itself excepted
	began   bool   // goes on without clients
	over    bool   // file is closed by its last reader
	hash    narinfo.Hash

	mu      sync.Mutex    // guards what follows
	changed chan struct{} // closed and replaced whenever something below changes
	size    int64         // bytes that can be read
	ended   bool          // and that is all
	err     error         // why there won't be more
}

// start begins a job for which there is none. It is called with the cache's mutex held.
func (c *Cache) start(s store.Store, info *narinfo.Info) *job {
	ctx, cancel := context.WithCancel(context.Background())
	j := &job{store: s, info: info.Clone(), cancel: cancel, changed: make(chan struct{}), sum: sha256.New(),
		claim: &claim{users: 1}}
	c.jobs[info.NarHash] = j
	c.running.Go(func() {
		defer cancel()
		c.run(ctx, j)
	})
	return j
}

// run makes the artefact and publishes it.
func (c *Cache) run(ctx context.Context, j *job) {
	err := c.make(ctx, j)
	if err == nil {
		err = c.publish(j)
	}
	if ctx.Err() != nil && err != nil {
		err = fmt.Errorf("%w: %w", errClosed, context.Canceled)
	}
	c.end(j, err)
}

// make writes the whole archive to the job's file.
func (c *Cache) make(ctx context.Context, j *job) error {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	j.began = ctx.Err() == nil
	c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	start := time.Now()
	nar, err := j.store.Open(ctx, j.info)
	if err != nil {
		return err
	}
	defer func() { _ = nar.Close() }()
	if j.file, err = os.CreateTemp(c.dir, tempPrefix); err != nil {
		return diskError{err}
	}
	if err := c.compress(ctx, j, nar); err != nil {
		return err
	}
	c.mu.Lock()
	c.stats.Made++
	c.mu.Unlock()
	if made := c.opts.Trace.Made; made != nil {
		made(j.info.StorePath, j.info.NarSize, j.size, time.Since(start))
	}
	return nil
}

// compress reads frames, has them compressed side by side, and writes them in their order.
func (c *Cache) compress(ctx context.Context, j *job, nar io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	queue := make(chan *frame, queued) // what is in it is bounded by its memory
	var failed error
	var writer sync.WaitGroup
	writer.Go(func() {
		for fr := range queue {
			<-fr.done
			if failed == nil {
				failed = c.append(j, fr.out, fr.last)
			}
			c.frames.release(fr)
			if failed != nil {
				cancel()
			}
		}
	})
	err := c.cut(ctx, j, nar, queue)
	close(queue)
	writer.Wait()
	if failed != nil {
		return failed
	}
	return err
}

// cut fills the queue with frames that are being compressed. Who reads the queue waits for each.
func (c *Cache) cut(ctx context.Context, j *job, nar io.Reader, queue chan<- *frame) error {
	cut := &cutter{nar: nar, size: j.info.NarSize}
	for {
		fr, err := cut.next(ctx, c.frames)
		if err != nil {
			return err
		}
		last := fr.last
		if cut.number == 1 {
			c.frames.compress(fr) // before others may take all processors from who writes and sends it
		} else {
			go c.frames.compress(fr)
		}
		queue <- fr
		if last {
			return nil
		}
	}
}

// append writes a frame to the job's file, once there is room for it, and announces it.
func (c *Cache) append(j *job, b []byte, last bool) error {
	if err := c.reserve(j.claim, j.size+int64(len(b))); err != nil {
		return err
	}
	if _, err := j.file.WriteAt(b, j.size); err != nil {
		return diskError{err}
	}
	j.sum.Write(b)
	if last {
		sum, err := narinfo.NewHash(narinfo.SHA256, j.sum.Sum(nil))
		if err != nil {
			return fmt.Errorf("artefact: %w", err)
		}
		c.mu.Lock()
		j.hash = sum
		c.mu.Unlock()
	}
	j.announce(func() { j.size, j.ended = j.size+int64(len(b)), last })
	return nil
}

// end settles what becomes of a job that is over: err is nil if it was published.
func (c *Cache) end(j *job, err error) {
	if err != nil && j.file != nil {
		_ = os.Remove(j.file.Name())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.judge(j, err)
	}
	j.announce(func() {
		if !j.ended { // else all bytes are there, published or not
			j.err = err
		}
	})
	c.forget(j)
	c.frames.rest()
	j.over = true
	if j.readers == 0 {
		j.closeFile()
	}
	c.release(j.claim)
}

// judge decides what a failure means for others, and tells of it. It is called with the cache's mutex held.
func (c *Cache) judge(j *job, err error) {
	j.claim.gone = true
	disk, ok := errors.AsType[diskError](err)
	if ok {
		c.avoidDisk(j, disk)
	}
	if j.ended || errors.Is(err, errClosed) {
		return // its clients have what they want, or have left
	}
	c.stats.Failed++
	if failed := c.opts.Trace.Failed; failed != nil {
		failed(j.info.StorePath, err)
	}
}

func (j *job) closeFile() {
	if j.file != nil {
		_ = j.file.Close()
	}
}

// announce changes what is guarded by the job's mutex, and wakes who waits.
func (j *job) announce(change func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change()
	close(j.changed)
	j.changed = make(chan struct{})
}

// await returns when there is a byte at offset, or the end.
func (j *job) await(ctx context.Context, offset int64) (size int64, ended bool, err error) {
	for {
		j.mu.Lock()
		size, ended, err = j.size, j.ended, j.err
		changed := j.changed
		j.mu.Unlock()
		if size > offset || ended {
			return size, ended, nil
		}
		if err != nil {
			return size, false, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return size, false, ctx.Err()
		}
	}
}

// growing reads a job's file from its own position. It is not safe for concurrent use.
type growing struct {
	j      *job
	c      *Cache
	ctx    context.Context // of the call that opened it
	pos    int64
	closed bool
}

// Read waits for bytes at its position.
func (g *growing) Read(p []byte) (int, error) {
	if g.closed {
		return 0, os.ErrClosed
	}
	size, _, err := g.j.await(g.ctx, g.pos)
	if err != nil {
		return 0, err
	}
	if g.pos >= size {
		return 0, io.EOF
	}
	n, err := g.j.file.ReadAt(p[:min(int64(len(p)), size-g.pos)], g.pos)
	g.pos += int64(n)
	if n > 0 || err == nil {
		return n, nil
	}
	return 0, fmt.Errorf("artefact: a growing file: %w", err)
}

// Seek waits for the end if whence is io.SeekEnd.
func (g *growing) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += g.pos
	case io.SeekEnd:
		size, _, err := g.j.await(g.ctx, 1<<62)
		if err != nil {
			return g.pos, err
		}
		offset += size
	}
	if offset < 0 {
		return g.pos, os.ErrInvalid
	}
	g.pos = offset
	return offset, nil
}

// Close lets go of the file. A second Close does nothing.
func (g *growing) Close() error {
	if g.closed {
		return nil
	}
	g.closed = true
	g.c.mu.Lock()
	defer g.c.mu.Unlock()
	if g.j.readers--; g.j.readers == 0 && g.j.over {
		g.j.closeFile()
	}
	g.c.release(g.j.claim)
	return nil
}
