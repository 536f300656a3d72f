package pullthrough

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/internal/background"
	"github.com/voidnxlab/nixtrap/internal/narfile"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Remote is what is pulled through: a store that hands archives out undecoded and proves them.
type Remote interface {
	store.Store
	store.ArchiveOpener
}

// Receiver stores what is pulled through. It is safe for concurrent use.
type Receiver interface {
	// Receive stores a path: its metadata as the remote store has them, and its archive, the file at info.URL as it is.
	// It publishes the path only if archive ends with a bare io.EOF, which says that it was proved, and whatever else the
	// receiver itself asks for holds. Any other error of archive it returns. It may return before the end, with an error or,
	// if there is nothing to be done, without. info is its own. archive must not be read after the return.
	Receive(ctx context.Context, info *narinfo.Info, archive io.Reader) error
}

// Options are the settings of a [Store]. nil and the zero value are the defaults. They are copied.
type Options struct {
	// Spool is the most bytes that files under way may take. 0: 4 GiB.
	Spool int64
	// TempDir is where they lie. "": [os.TempDir].
	TempDir string
	// Linger is how long a download may go on for the receiver alone. 0: 10 min. Negative: not at all.
	Linger time.Duration
	// Logger receives what could not be stored (Warn). nil discards it.
	Logger *slog.Logger
	// Trace is told what happens. nil: nobody is.
	Trace *Trace

	create func(dir string) (spoolFile, error) // nil: createTemp
}

// Trace has functions that are called, if not nil, by the goroutine that does the work. They must be quick, safe for
// concurrent use, and must not call the [Store].
type Trace struct {
	// Began is called when a download begins, and Joined when another client is given one that goes on.
	Began, Joined func(path narinfo.StorePath)
	// Stored is called when the receiver has read a whole archive, of size bytes, and returned without an error.
	Stored func(path narinfo.StorePath, size int64)
	// Unneeded is called when the receiver has returned without an error before the end: there was nothing to be done.
	Unneeded func(path narinfo.StorePath)
	// Failed is called when the remote store or the receiver has failed.
	Failed func(path narinfo.StorePath, err error)
	// Direct is called when an archive is passed on and not stored, for want of room.
	Direct func(path narinfo.StorePath)
}

// Store is a remote store of which archives are stored when they are read. It is safe for concurrent use.
type Store struct {
	remote     Remote
	receiver   Receiver
	opts       Options
	background *background.Work

	mu    sync.Mutex // guards what follows, and the fields of jobs that say so
	spool int64      // bytes that are claimed
	jobs  map[content]*job
}

// content is what a job downloads.
type content struct {
	path              narinfo.StorePath
	narHash, fileHash narinfo.Hash
	url               string
}

var (
	_ store.Store             = (*Store)(nil)
	_ store.ArchiveOpener     = (*Store)(nil)
	_ store.LogOpener         = (*Store)(nil)
	_ store.RealisationOpener = (*Store)(nil)
)

// New returns remote with everything that is read from it stored in receiver. Both stay the caller's.
// The caller closes the store before them.
func New(remote Remote, receiver Receiver, o *Options) (*Store, error) {
	s := &Store{remote: remote, receiver: receiver, background: background.New(), jobs: map[content]*job{}}
	if o != nil {
		s.opts = *o
	}
	if s.opts.Spool < 0 {
		return nil, fmt.Errorf("pullthrough: spool of %d bytes", s.opts.Spool)
	}
	if s.opts.Spool == 0 {
		s.opts.Spool = 4 << 30
	}
	if s.opts.Linger == 0 {
		s.opts.Linger = 10 * time.Minute
	}
	if s.opts.Logger == nil {
		s.opts.Logger = slog.New(slog.DiscardHandler)
	}
	if s.opts.Trace == nil {
		s.opts.Trace = new(Trace)
	}
	if s.opts.create == nil {
		s.opts.create = createTemp
	}
	return s, nil
}

// Close ends all downloads, and waits until the receiver has returned from each. Readers that are still open fail.
func (s *Store) Close() error {
	s.background.Stop()
	return nil
}

// StoreDir returns that of the remote store.
func (s *Store) StoreDir() string { return s.remote.StoreDir() }

// Info asks the remote store, and stores nothing.
func (s *Store) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	if store.IsLocalOnly(ctx) {
		return nil, notFound(string(hash))
	}
	return s.remote.Info(ctx, hash)
}

// OpenArchive returns the path's archive as it is, from its first byte on, while it is stored.
// It returns when the remote store has answered. Reading ends when ctx does; storing goes on.
func (s *Store) OpenArchive(ctx context.Context, info *narinfo.Info) (*store.File, error) {
	now, err := store.Current(ctx, s, info)
	if err != nil {
		return nil, err
	}
	j, err := s.job(now)
	if err != nil {
		return nil, err
	}
	if j == nil {
		s.path(s.opts.Trace.Direct, now)
		return s.remote.OpenArchive(ctx, now)
	}
	r := &reader{ctx: ctx, store: s, job: j, client: true}
	if err := j.awaitOpened(ctx); err != nil {
		_ = r.Close()
		if isDisk(err) {
			s.path(s.opts.Trace.Direct, now)
			return s.remote.OpenArchive(ctx, now)
		}
		return nil, err
	}
	return &store.File{ReadSeekCloser: r, Size: j.fileSize, ModTime: j.modified, Hash: j.fileHash}, nil
}

// Open returns the path's NAR, decoded, while its archive is stored.
func (s *Store) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	now, err := store.Current(ctx, s, info)
	if err != nil {
		return nil, err
	}
	f, err := s.OpenArchive(ctx, now)
	if err != nil {
		return nil, err
	}
	return narfile.OpenNAR(ctx, now, f, nil)
}

// OpenLog asks the remote store, if it has logs. They are not stored.
func (s *Store) OpenLog(ctx context.Context, drv narinfo.StorePath) (io.ReadCloser, error) {
	if o, ok := s.remote.(store.LogOpener); ok && !store.IsLocalOnly(ctx) {
		return o.OpenLog(ctx, drv)
	}
	return nil, notFound(string(drv))
}

// Realisation asks the remote store, if it has realisations. They are not stored.
func (s *Store) Realisation(ctx context.Context, id string) ([]byte, error) {
	if o, ok := s.remote.(store.RealisationOpener); ok && !store.IsLocalOnly(ctx) {
		return o.Realisation(ctx, id)
	}
	return nil, notFound(id)
}

func (s *Store) path(hook func(narinfo.StorePath), info *narinfo.Info) {
	if hook != nil {
		hook(info.StorePath)
	}
}

func notFound(what string) error {
	return fmt.Errorf("pullthrough: %q: %w", what[:min(len(what), 300)], store.ErrNotFound)
}
