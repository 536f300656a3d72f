package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// openServe starts the command that speaks the serve protocol, and stands before it.
func openServe(ctx context.Context, m *offload.Machine, run Run) (io.ReadWriteCloser, error) {
	f := &face{machine: m.Name, realisations: make(map[string][]byte)}
	conn, err := run(ctx, serveCommand(m), &f.lines)
	if err != nil {
		return nil, err
	}
	if f.LegacyClient, err = nixproto.NewLegacyClient(ctx, conn, nil); err != nil {
		return nil, err
	}
	near, far := net.Pipe()
	served := &served{Conn: near}
	go func() {
		options := &nixproto.ServerOptions{NixVersion: "nix-store --serve", Trust: nixproto.Trusted}
		_ = nixproto.Serve(context.Background(), far, func(_ context.Context, s *nixproto.Session) (nixproto.Handler, error) {
			f.tell = s
			f.fail = func(err error) {
				served.fail(err)
				_ = far.Close()
			}
			return f, nil
		}, options)
		_ = f.LegacyClient.Close()
	}()
	return served, nil
}

// served is the near end of a face. It ends with what went wrong behind it.
type served struct {
	net.Conn
	mu     sync.Mutex // guards failed
	failed error
}

func (s *served) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
}

// Read implements io.Reader.
func (s *served) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n == 0 && errors.Is(err, io.EOF) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.failed != nil {
			return 0, s.failed
		}
	}
	return n, err
}

// face answers in the worker protocol, by a command that speaks the serve protocol.
type face struct {
	*nixproto.LegacyClient
	machine      string
	lines        lines
	tell         *nixproto.Session
	fail         func(error) // ends the connection
	builds       uint64
	realisations map[string][]byte // of what was built, by their ids
}

var (
	_ nixproto.NARHandler         = (*face)(nil)
	_ nixproto.AddHandler         = (*face)(nil)
	_ nixproto.BuildHandler       = (*face)(nil)
	_ nixproto.SettingsHandler    = (*face)(nil)
	_ nixproto.RealisationHandler = (*face)(nil)
	_ nixproto.TempRootHandler    = (*face)(nil)
)

// checked ends the connection by an error: after one the command has ended, or is somewhere in the middle.
func checked[T any](f *face, answer T, err error) (T, error) {
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, errors.ErrUnsupported) {
		f.fail(err)
	}
	return answer, err
}

// PathInfo implements [nixproto.Handler].
func (f *face) PathInfo(ctx context.Context, path narinfo.StorePath) (*nixproto.PathInfo, error) {
	info, err := f.LegacyClient.PathInfo(ctx, path)
	return checked(f, info, err)
}

// ValidPaths implements [nixproto.Handler].
func (f *face) ValidPaths(
	ctx context.Context, paths []narinfo.StorePath, o *nixproto.ValidPathsOptions,
) ([]narinfo.StorePath, error) {
	valid, err := f.LegacyClient.ValidPaths(ctx, paths, o)
	return checked(f, valid, err)
}

// NARFromPath implements [nixproto.NARHandler].
func (f *face) NARFromPath(ctx context.Context, path narinfo.StorePath) (io.ReadCloser, error) {
	nar, err := f.LegacyClient.NARFromPath(ctx, path)
	return checked(f, nar, err)
}

// AddMultipleToStore implements [nixproto.AddHandler].
func (f *face) AddMultipleToStore(ctx context.Context, paths nixproto.Source, o *nixproto.AddOptions) error {
	_, err := checked(f, 0, f.LegacyClient.AddMultipleToStore(ctx, paths, o))
	return err
}

// firstActivity is the number before that of the first build.
const firstActivity = 1 << 32

// BuildDerivation implements [nixproto.BuildHandler]. What the command prints meanwhile is the build's log.
func (f *face) BuildDerivation(
	ctx context.Context, path narinfo.StorePath, drv *nixproto.Derivation, mode nixproto.BuildMode,
) (*nixproto.BuildResult, error) {
	f.builds++
	activity := firstActivity + f.builds
	f.tell.Send(nixproto.Event{
		Kind: nixproto.EventStart, Activity: activity, Level: 3, Type: nixproto.ActivityBuild,
		Text:   fmt.Sprintf("building '%s' on '%s'", path, f.machine),
		Fields: []nixproto.Field{text(string(path)), text(f.machine), {Number: 1}, {Number: 1}},
	})
	f.lines.to(func(line string) {
		f.tell.Send(nixproto.Event{
			Kind: nixproto.EventResult, Activity: activity, Type: nixproto.ResultBuildLogLine, Fields: []nixproto.Field{text(line)},
		})
	})
	result, err := f.LegacyClient.BuildDerivation(ctx, path, drv, mode)
	if err == nil {
		// Once something else was asked and answered, all that the build printed has come.
		_, err = f.LegacyClient.ValidPaths(ctx, nil, nil)
	}
	f.lines.to(nil)
	f.tell.Send(nixproto.Event{Kind: nixproto.EventStop, Activity: activity})
	if err == nil {
		maps.Copy(f.realisations, result.Outputs)
	}
	return checked(f, result, err)
}

func text(s string) nixproto.Field { return nixproto.Field{Text: s, IsText: true} }

// BuildPathsWithResults implements [nixproto.BuildHandler]: the serve protocol has it for whole derivations, without results.
func (f *face) BuildPathsWithResults(context.Context, []nixproto.DerivedPath, nixproto.BuildMode) ([]nixproto.PathResult, error) {
	return nil, fmt.Errorf("nix-store --serve builds derivations alone: %w", errors.ErrUnsupported)
}

// Missing implements [nixproto.BuildHandler].
func (f *face) Missing(context.Context, []nixproto.DerivedPath) (*nixproto.Missing, error) {
	return nil, fmt.Errorf("nix-store --serve does not tell what it would build: %w", errors.ErrUnsupported)
}

// AddTempRoot implements [nixproto.TempRootHandler]. The serve protocol has no such thing.
func (f *face) AddTempRoot(context.Context, narinfo.StorePath) error { return nil }

// Realisation implements [nixproto.RealisationHandler], of what was built on this connection.
func (f *face) Realisation(_ context.Context, id string) ([]byte, error) {
	if r := f.realisations[id]; r != nil {
		return r, nil
	}
	return nil, store.ErrNotFound
}

// RegisterRealisation implements [nixproto.RealisationHandler].
func (f *face) RegisterRealisation(_ context.Context, realisation []byte) error {
	var r struct{ ID string }
	if err := json.Unmarshal(realisation, &r); err != nil {
		return err
	}
	f.realisations[r.ID] = realisation
	return nil
}

// lines takes what a command prints apart. One goroutine writes.
type lines struct {
	mu      sync.Mutex // guards what follows
	each    func(line string)
	partial []byte
}

// maxLine bounds a line that is passed on; what is longer comes in pieces.
const maxLine = 64 << 10

// to has lines go to f from now on; nil: nowhere. What is left of the last line goes first.
func (l *lines) to(f func(line string)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.each != nil && len(l.partial) > 0 {
		l.each(string(l.partial))
	}
	l.each, l.partial = f, nil
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.each == nil {
		return len(p), nil
	}
	l.partial = append(l.partial, p...)
	for {
		line, rest, whole := bytes.Cut(l.partial, []byte("\n"))
		if !whole && len(line) < maxLine {
			return len(p), nil
		}
		l.each(string(line))
		l.partial = append(l.partial[:0], rest...)
	}
}
