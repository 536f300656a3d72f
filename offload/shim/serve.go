package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"time"

	"github.com/voidnxlab/nixtrap/internal/pause"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/drv"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// Options are a shim's. nil and the zero value are the defaults.
type Options struct {
	// Program is what Nix was told to start, by which the desk knows a hook's lease.
	Program string
	// Stall is how long a build may say nothing, while nothing else shows that it goes on. 0: 5 min.
	Stall time.Duration
	// Patience is for how long builders that failed at a build are tried again when no other takes it. 0: 30 s.
	Patience time.Duration
	// StoreRoot is the folder in which the store's folder is: derivations are read from it. "": /.
	StoreRoot string
	// Logger is told what goes wrong. nil discards it.
	Logger *slog.Logger
}

// Serve answers a Nix that takes the program at the other end of conn for a builder's daemon, until it leaves. conn is closed.
// local is the store that Nix builds for. Its error is that of [nixproto.Serve].
func Serve(ctx context.Context, conn io.ReadWriteCloser, local store.Store, desk Desk, o *Options) error {
	s := &server{store: local, desk: desk, builders: make(map[string]*builder), built: make(map[narinfo.StorePath]*Ticket)}
	if o != nil {
		s.opts = *o
	}
	if s.opts.Stall <= 0 {
		s.opts.Stall = 5 * time.Minute
	}
	if s.opts.Patience <= 0 {
		s.opts.Patience = 30 * time.Second
	}
	if s.opts.Logger == nil {
		s.opts.Logger = slog.New(slog.DiscardHandler)
	}
	defer s.close()
	return nixproto.Serve(ctx, conn, func(_ context.Context, tell *nixproto.Session) (nixproto.Handler, error) {
		s.tell = tell
		return s, nil
	}, &nixproto.ServerOptions{NixVersion: "nix-offload", Trust: nixproto.Trusted, OnPanic: func(v any, stack []byte) {
		s.opts.Logger.Error("panic", "value", v, "stack", string(stack))
	}})
}

// server is one connection of a Nix.
type server struct {
	store    store.Store
	desk     Desk
	opts     Options
	tell     *nixproto.Session
	limits   Limits                        // what the client has set, where no hook has
	builders map[string]*builder           // with outputs, by their machines' names
	built    map[narinfo.StorePath]*Ticket // for fetching what was built for this client
}

var (
	_ nixproto.Handler            = (*server)(nil)
	_ nixproto.AddHandler         = (*server)(nil)
	_ nixproto.BuildHandler       = (*server)(nil)
	_ nixproto.NARHandler         = (*server)(nil)
	_ nixproto.TempRootHandler    = (*server)(nil)
	_ nixproto.RealisationHandler = (*server)(nil)
	_ nixproto.SettingsHandler    = (*server)(nil)
)

func (s *server) close() {
	for _, b := range s.builders {
		_ = b.client.Close()
	}
}

// SetOptions implements [nixproto.SettingsHandler]. Nix's build-remote sends none: what its Nix says, the hook has said.
func (s *server) SetOptions(_ context.Context, o *nixproto.Settings) error {
	s.limits = Limits{MaxSilent: o.MaxSilentTime, KeepFailed: o.KeepFailed, Substitute: o.UseSubstitutes}
	if text, ok := o.Overrides["timeout"]; ok {
		if n, err := strconv.ParseUint(text, 10, 31); err == nil {
			s.limits.Timeout = time.Duration(n) * time.Second
		}
	}
	return nil
}

// AddTempRoot implements [nixproto.TempRootHandler]. Nix keeps what it builds itself.
func (s *server) AddTempRoot(context.Context, narinfo.StorePath) error { return nil }

// AddMultipleToStore implements [nixproto.AddHandler]. A Nix sends what is not there, which is nothing.
func (s *server) AddMultipleToStore(ctx context.Context, paths nixproto.Source, _ *nixproto.AddOptions) error {
	info, _, err := paths.Next(ctx)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("nix-offload: %s is not in this machine's store", info.Info.StorePath)
}

// PathInfo implements [nixproto.Handler].
func (s *server) PathInfo(ctx context.Context, path narinfo.StorePath) (info *nixproto.PathInfo, err error) {
	built, err := s.remotely(ctx, path, func(b *builder) (err error) {
		info, err = b.client.PathInfo(ctx, path)
		return err
	})
	if built || err != nil {
		return info, err
	}
	here, err := store.Lookup(ctx, s.store, path)
	if err != nil {
		return nil, err
	}
	return &nixproto.PathInfo{Info: here}, nil
}

// ValidPaths implements [nixproto.Handler]: what is here is said to be there.
func (s *server) ValidPaths(
	ctx context.Context, paths []narinfo.StorePath, _ *nixproto.ValidPathsOptions,
) ([]narinfo.StorePath, error) {
	var valid []narinfo.StorePath
	for _, p := range paths {
		switch _, err := store.Lookup(ctx, s.store, p); {
		case err == nil:
			valid = append(valid, p)
		case !errors.Is(err, store.ErrNotFound):
			return nil, err
		}
	}
	return valid, nil
}

// NARFromPath implements [nixproto.NARHandler].
func (s *server) NARFromPath(ctx context.Context, path narinfo.StorePath) (io.ReadCloser, error) {
	r := &remoteNAR{ctx: ctx, server: s, path: path}
	built, err := s.remotely(ctx, path, func(b *builder) (err error) {
		r.nar, err = b.client.NARFromPath(ctx, path)
		return err
	})
	if err != nil {
		return nil, err
	}
	if built {
		return r, nil
	}
	info, err := store.Lookup(ctx, s.store, path)
	if err != nil {
		return nil, err
	}
	return s.store.Open(ctx, info)
}

// remoteNAR is read from a builder, and taken up again where a connection breaks.
type remoteNAR struct {
	ctx    context.Context
	server *server
	path   narinfo.StorePath
	nar    io.ReadCloser
	read   int64
	breaks int
}

// Read implements io.Reader.
func (r *remoteNAR) Read(p []byte) (int, error) {
	for {
		n, err := r.nar.Read(p)
		r.read += int64(n)
		if err == nil || errors.Is(err, io.EOF) || n > 0 || r.ctx.Err() != nil || r.breaks == retries {
			if n > 0 && !errors.Is(err, io.EOF) {
				err = nil // it comes again
			}
			return n, err
		}
		r.breaks++
		if err := r.again(); err != nil {
			return 0, err
		}
	}
}

// again opens the archive anew, and passes over what was read of it.
func (r *remoteNAR) again() error {
	_ = r.nar.Close()
	_, err := r.server.remotely(r.ctx, r.path, func(b *builder) (err error) {
		if r.nar, err = b.client.NARFromPath(r.ctx, r.path); err != nil {
			return err
		}
		_, err = io.CopyN(io.Discard, r.nar, r.read)
		return err
	})
	return err
}

// Close implements io.Closer.
func (r *remoteNAR) Close() error { return r.nar.Close() }

// retries is how often a connection to a builder may break while something is fetched from it.
const retries = 5

// remotely does something with the machine that has built a path, on another connection where one breaks.
// built is false if no machine has.
func (s *server) remotely(ctx context.Context, path narinfo.StorePath, do func(*builder) error) (built bool, err error) {
	for range retries {
		var b *builder
		if b, err = s.builderOf(ctx, path); b == nil && err == nil {
			return false, nil
		}
		if err == nil {
			if err = do(b); err == nil || errors.Is(err, store.ErrNotFound) {
				return true, err
			}
			_ = b.client.Close()
			delete(s.builders, b.ticket.Machine.Name)
		}
		if _, said := errors.AsType[*nixproto.RemoteError](err); said || ctx.Err() != nil {
			return true, err
		}
		if err := pause.For(ctx, time.Second/4); err != nil {
			return true, err
		}
	}
	return true, err
}

// builderOf is a connection to the machine that has built a path, nil if none has.
func (s *server) builderOf(ctx context.Context, path narinfo.StorePath) (*builder, error) {
	t := s.built[path]
	if t == nil {
		var err error
		if t, err = s.desk.Where(ctx, path); err != nil || t == nil {
			return nil, err
		}
	}
	if b := s.builders[t.Machine.Name]; b != nil {
		return b, nil
	}
	b, err := dial(ctx, s.desk, t, s.tell.Send)
	if err != nil {
		return nil, err
	}
	s.builders[t.Machine.Name] = b
	return b, nil
}

// Realisation implements [nixproto.RealisationHandler].
func (s *server) Realisation(ctx context.Context, id string) ([]byte, error) {
	for _, b := range s.builders {
		if r, err := b.client.Realisation(ctx, id); !errors.Is(err, store.ErrNotFound) {
			return r, err
		}
	}
	return nil, store.ErrNotFound
}

// RegisterRealisation implements [nixproto.RealisationHandler]. What is sent to builders has been resolved.
func (s *server) RegisterRealisation(context.Context, []byte) error { return nil }

// BuildDerivation implements [nixproto.BuildHandler].
func (s *server) BuildDerivation(
	ctx context.Context, path narinfo.StorePath, what *nixproto.Derivation, mode nixproto.BuildMode,
) (*nixproto.BuildResult, error) {
	if mode != nixproto.BuildNormal {
		return nil, fmt.Errorf("nix-offload: %w: repairing and checking on builders", errors.ErrUnsupported)
	}
	o := &order{server: s, drv: path, what: what, limits: s.limits}
	t, err := s.desk.Take(ctx, filepath.Base(s.opts.Program))
	if err != nil {
		return nil, err
	}
	if t != nil && t.Request != nil && t.Request.DrvPath == string(path) {
		o.request, o.limits = t.Request, t.Limits
	} else {
		t = nil
		if o.request, err = s.request(path, what); err != nil {
			return nil, err
		}
	}
	r, b, err := o.build(ctx, t)
	if timeout, ok := errors.AsType[*timeoutError](err); ok {
		return &nixproto.BuildResult{Status: nixproto.TimedOut, Message: timeout.Error()}, nil
	}
	if err != nil {
		return nil, err
	}
	if old := s.builders[b.ticket.Machine.Name]; old != nil {
		_ = old.client.Close()
	}
	s.builders[b.ticket.Machine.Name] = b
	if r.Status.OK() {
		outputs, err := outputsOf(r, what, s.store.StoreDir())
		if err != nil {
			return nil, err
		}
		for _, p := range outputs {
			s.built[p] = &Ticket{Machine: b.ticket.Machine}
		}
	}
	return r, nil
}

// request describes a build for which no hook has asked.
func (s *server) request(path narinfo.StorePath, what *nixproto.Derivation) (*offload.Request, error) {
	r, err := drv.Read(filepath.Join(s.opts.StoreRoot, string(path)), string(path))
	if err != nil {
		return nil, fmt.Errorf("nix-offload: %w", err)
	}
	r.System = what.Platform
	return r, nil
}

// BuildPathsWithResults implements [nixproto.BuildHandler]. A client that is trusted, as all are here, does without.
func (s *server) BuildPathsWithResults(context.Context, []nixproto.DerivedPath, nixproto.BuildMode) ([]nixproto.PathResult, error) {
	return nil, fmt.Errorf("nix-offload: %w: builds of derivations that have not been resolved", errors.ErrUnsupported)
}

// Missing implements [nixproto.BuildHandler].
func (s *server) Missing(context.Context, []nixproto.DerivedPath) (*nixproto.Missing, error) {
	return nil, fmt.Errorf("nix-offload: %w", errors.ErrUnsupported)
}
