package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

var errClosed = errors.New("pullthrough: the store is closed")

// diskError is trouble with the temporary file, which says nothing of the archive.
type diskError struct{ error }

func (e diskError) Unwrap() error { return e.error }

func isDisk(err error) bool {
	_, ok := errors.AsType[diskError](err)
	return ok
}

// spoolFile is where an archive lies while it is read.
type spoolFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

// createTemp makes a file without a name.
func createTemp(dir string) (spoolFile, error) {
	f, err := os.CreateTemp(dir, "nixtrap-pull-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// job is one download, for everybody who wants it.
type job struct {
	key    content
	info   *narinfo.Info
	claim  int64 // bytes of the spool
	cancel context.CancelFunc

	// Guarded by Store.mu:
	clients   int
	users     int // clients, the receiver, and the job itself: the last one closes the file
	receiving bool
	linger    *time.Timer // runs while the receiver is the only one that wants the archive

	mu      sync.Mutex    // guards what follows
	changed chan struct{} // closed and replaced whenever something below changes
	file    spoolFile     // nil: the remote store has not answered yet; this and the next three do not change after that
	// What the remote store says of the file: see store.File.
	fileSize int64
	fileHash narinfo.Hash
	modified time.Time

	size  int64 // bytes that can be read
	ended bool  // and that is all
	err   error // why there won't be more
}

// job returns the running job for a path, or a new one, with its caller counted as a client; nil if there is no room.
func (s *Store) job(info *narinfo.Info) (*job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := content{info.StorePath, info.NarHash, info.FileHash, info.URL}
	if j := s.jobs[c]; j != nil {
		s.path(s.opts.Trace.Joined, info)
		j.clients++
		j.users++
		if j.linger != nil {
			j.linger.Stop()
		}
		return j, nil
	}
	bound := info.FileSize
	if bound == 0 {
		bound = min(info.NarSize, 1<<61) + min(info.NarSize, 1<<61)/4 + 1<<20
	}
	if bound > s.opts.Spool-s.spool {
		return nil, nil
	}
	ctx, cancel := context.WithCancel(s.background.Context())
	j := &job{key: c, info: info.Clone(), claim: bound, cancel: cancel, clients: 1, users: 2, changed: make(chan struct{})}
	if !s.background.Start(func(context.Context) { s.run(ctx, j) }) {
		cancel()
		return nil, errClosed
	}
	s.spool += bound
	s.jobs[c] = j
	s.path(s.opts.Trace.Began, info)
	return j, nil
}

// run downloads, and waits for the receiver.
func (s *Store) run(ctx context.Context, j *job) {
	defer j.cancel()
	var receiver sync.WaitGroup
	var got received
	err := s.open(ctx, j, func() {
		receiver.Go(func() { got = s.receive(ctx, j) })
	})
	if err != nil && s.background.Context().Err() != nil {
		err = errors.Join(err, errClosed)
	}
	if err != nil {
		s.mu.Lock()
		s.forget(j) // who comes now begins anew
		s.mu.Unlock()
	}
	j.announce(func() { j.ended, j.err = err == nil, err })
	receiver.Wait()
	s.mu.Lock()
	s.forget(j)
	s.mu.Unlock()
	s.report(j, err, got)
	s.leave(j)
}

// forget has later requests begin a job of their own. It is called with the mutex held.
func (s *Store) forget(j *job) {
	if s.jobs[j.key] == j {
		delete(s.jobs, j.key)
	}
}

// received is what became of an archive at the receiver.
type received struct {
	whole bool // it read to the end
	err   error
}

func (s *Store) report(j *job, err error, got received) {
	if errors.Is(err, errClosed) {
		return
	}
	if err == nil || errors.Is(err, context.Canceled) && got.err != nil {
		err = got.err
	}
	if err == nil {
		stored := s.opts.Trace.Stored
		switch {
		case !got.whole:
			s.path(s.opts.Trace.Unneeded, j.info)
		case stored != nil:
			stored(j.info.StorePath, j.size)
		}
		return
	}
	s.opts.Logger.Warn("path not stored", "path", j.info.StorePath, "error", err)
	if failed := s.opts.Trace.Failed; failed != nil {
		failed(j.info.StorePath, err)
	}
}

// open opens the remote archive, has started called, and copies the archive into the job's file.
func (s *Store) open(ctx context.Context, j *job, started func()) error {
	src, err := s.remote.OpenArchive(ctx, j.info)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	f, err := s.opts.create(s.opts.TempDir)
	if err != nil {
		return diskError{fmt.Errorf("pullthrough: %w", err)}
	}
	s.mu.Lock()
	j.users++
	j.receiving = true
	s.mu.Unlock()
	j.announce(func() {
		j.file = f
		j.fileSize, j.fileHash, j.modified = src.Size, src.Hash, src.ModTime
	})
	started()
	return s.copy(ctx, j, src)
}

func (s *Store) copy(ctx context.Context, j *job, src io.Reader) error {
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := src.Read(buf)
		if j.size+int64(n) > j.claim {
			return fmt.Errorf("pullthrough: %q is longer than %d bytes: %w", j.info.URL, j.claim, store.ErrCorrupt)
		}
		if n > 0 {
			if _, err := j.file.WriteAt(buf[:n], j.size); err != nil {
				return diskError{fmt.Errorf("pullthrough: %w", err)}
			}
			j.announce(func() { j.size += int64(n) })
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// receive gives the archive to the receiver.
func (s *Store) receive(ctx context.Context, j *job) received {
	r := &reader{ctx: ctx, store: s, job: j}
	err := s.receiver.Receive(ctx, j.info.Clone(), struct{ io.Reader }{r})
	return received{r.ended, errors.Join(err, r.Close())}
}

// announce changes what is guarded by the job's mutex, and wakes who waits.
func (j *job) announce(change func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change()
	close(j.changed)
	j.changed = make(chan struct{})
}

// await returns when ready is true, which is called with the mutex held, or the job has failed.
func (j *job) await(ctx context.Context, ready func() bool) error {
	for {
		j.mu.Lock()
		ok, err, changed := ready(), j.err, j.changed
		j.mu.Unlock()
		switch {
		case ok:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (j *job) awaitOpened(ctx context.Context) error {
	return j.await(ctx, func() bool { return j.file != nil })
}

// leave counts a user off, and releases the file with the last one.
func (s *Store) leave(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.users--; j.users > 0 {
		return
	}
	if j.linger != nil {
		j.linger.Stop()
	}
	s.spool -= j.claim
	if j.file != nil {
		_ = j.file.Close()
	}
}

// leaveAs counts a client or the receiver off. A download that nobody waits for any more ends, at once or soon.
func (s *Store) leaveAs(j *job, client bool) {
	s.mu.Lock()
	if client {
		j.clients--
	} else {
		j.receiving = false
	}
	switch {
	case j.clients > 0:
	case !j.receiving || s.opts.Linger < 0:
		s.giveUp(j)
	case j.linger == nil:
		j.linger = time.AfterFunc(s.opts.Linger, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.giveUp(j)
		})
	default:
		j.linger.Reset(s.opts.Linger)
	}
	s.mu.Unlock()
	s.leave(j)
}

// giveUp ends a download that no client waits for, unless it is complete. It is called with the mutex held.
func (s *Store) giveUp(j *job) {
	j.mu.Lock()
	complete := j.ended
	j.mu.Unlock()
	if complete || j.clients > 0 {
		return
	}
	s.forget(j) // who comes now must not get the error
	j.cancel()
}
