package nixproto_test

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// made names a path of this script's own. Its hash part is none other's: of two that share one Nix dies.
func made(name string) narinfo.StorePath {
	return narinfo.StorePath("/nix/store/" + strings.Repeat(name[:1], 32) + "-" + name)
}

// askBuilds is what an offloader does, by either protocol.
func askBuilds(ctx context.Context, b builder, ask func(string, any, error) bool) bool {
	info, nar := file(made("source"), "a source\n")
	source := nixproto.Upload{Info: info, Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(nar))), nil
	}}
	build := func(name, script string) (any, error) {
		return b.BuildDerivation(ctx, made(name+".drv"), &nixproto.Derivation{
			Outputs: map[string]nixproto.Output{"out": {Path: made(name)}}, InputSrcs: []narinfo.StorePath{made("source")},
			Platform: "x86_64-linux", Builder: "/bin/sh", Args: []string{"-c", script},
			Env: map[string]string{"PATH": "/usr/bin:/bin", "out": string(made(name))},
		}, nixproto.BuildNormal)
	}
	steps := []struct {
		name string
		run  func() (any, error)
	}{
		{"settings", func() (any, error) { return nil, b.SetOptions(ctx, settings()) }},
		{"before", func() (any, error) {
			return b.ValidPaths(ctx, []narinfo.StorePath{made("source")}, &nixproto.ValidPathsOptions{Lock: true, Substitute: true})
		}},
		{"add", func() (any, error) {
			return nil, b.AddMultipleToStore(ctx, nixproto.Uploads(source), &nixproto.AddOptions{DontCheckSigs: true})
		}},
		{"after", func() (any, error) { return b.ValidPaths(ctx, []narinfo.StorePath{made("source"), made("x")}, nil) }},
		{"build", func() (any, error) {
			return build("plain", "echo one; echo two >&2; cat "+string(made("source"))+" > $out")
		}},
		{"failing build", func() (any, error) { return build("failing", "echo no; exit 3") }},
		{"result", func() (any, error) { return b.PathInfo(ctx, made("plain")) }},
		{"archive", func() (any, error) {
			nar, err := b.NARFromPath(ctx, made("plain"))
			if err != nil {
				return nil, err
			}
			defer nar.Close()
			text, err := io.ReadAll(nar)
			return string(text), err
		}},
		{"build paths", func() (any, error) {
			return nil, b.BuildPaths(ctx, []nixproto.DerivedPath{{Path: made("plain")}}, nixproto.BuildNormal)
		}},
	}
	for _, step := range steps {
		result, err := step.run()
		if info, ok := result.(*nixproto.PathInfo); ok && info != nil {
			info.RegistrationTime = time.Time{} // is printed in the local time
		}
		if r, ok := result.(*nixproto.BuildResult); ok && r != nil {
			r.Start, r.Stop = r.Start.UTC(), r.Stop.UTC()
		}
		if !ask(step.name, result, err) {
			return false
		}
	}
	return true
}

// askWorkerBuilds goes on with what the worker protocol alone has.
func askWorkerBuilds(ctx context.Context, c *nixproto.Client, _ fixture, ask func(string, any, error) bool) {
	if !askBuilds(ctx, c, ask) {
		return
	}
	results, err := c.BuildPathsWithResults(ctx, []nixproto.DerivedPath{{Path: made("plain")}}, nixproto.BuildNormal)
	for i := range results {
		results[i].Start, results[i].Stop = results[i].Start.UTC(), results[i].Stop.UTC()
	}
	if !ask("build paths with results", results, err) {
		return
	}
	missing, err := c.Missing(ctx, []nixproto.DerivedPath{{Path: made("plain")}, {Path: made("x")}})
	if !ask("missing", missing, err) || !ask("ensure", nil, c.EnsurePath(ctx, made("plain"))) {
		return
	}
	info, err := c.AddToStore(ctx, &nixproto.Content{Name: "text", Method: "text:sha256"}, strings.NewReader("text\n"))
	if err == nil {
		info.RegistrationTime = time.Time{}
	}
	if !ask("content", info, err) {
		return
	}
	ask("signatures", nil, c.AddSignatures(ctx, made("plain"), []string{"k:" + strings.Repeat("A", 86) + "=="}))
}

// converseServe is converse for the serve protocol.
func converseServe(ctx context.Context, conn io.ReadWriteCloser) ([]answer, error) {
	c, err := nixproto.NewLegacyClient(ctx, conn, &nixproto.Options{MaxReply: 1 << 20})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var n notes
	if askBuilds(ctx, c, n.ask) {
		closure, err := c.Closure(ctx, []narinfo.StorePath{made("plain")})
		n.ask("closure", closure, err)
	}
	return n.answers, n.failure
}

func recordServe(t *testing.T, d *realDaemon) {
	r := &recorder{ReadWriteCloser: d.stdio(t, "nix-store", "--serve", "--write")}
	answers, _ := converseServe(t.Context(), r)
	save(t, "testdata/serve/"+d.nix.Release+".json", session{fixture{}, answers, r.transcript})
}

func TestRecordedServeSessions(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			s := load[session](t, "testdata/serve/"+release+".json")
			client, daemon := net.Pipe()
			played := make(chan error, 1)
			go func() { played <- s.replay(daemon) }()
			answers, err := converseServe(t.Context(), client)
			client.Close()
			require.NoError(t, <-played)
			require.NoError(t, err)
			require.Equal(t, s.Answers, answers)
			says := s.daemonBytes()
			for n := 0; n < len(says); n += 1 + n/500 {
				_, err := converseServe(t.Context(), deafConn(says[:n]))
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, "after %d bytes", n)
			}
		})
	}
}

// FuzzLegacyClient lets a nix-store --serve say anything.
func FuzzLegacyClient(f *testing.F) {
	for _, release := range realnix.Releases() {
		f.Add(load[session](f, "testdata/serve/"+release+".json").daemonBytes())
	}
	f.Fuzz(func(t *testing.T, says []byte) {
		_, err := converseServe(context.Background(), deafConn(says))
		requireKnown(t, err, "serve")
	})
}

// clientFile holds what a real client said to our server over a shelf, and what that answered: one list a connection.
func clientFile(release, name string) string {
	return "testdata/clients/" + release + "-" + name + ".json"
}

var clientNames = []string{"copy-to", "copy-from", "build"}

// TestRealClientsOfAShelf lets real Nix copy to, and from, and build on a server without any Nix behind it.
func TestRealClientsOfAShelf(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			nix := realnix.Get(t, release)
			w := newWorkshop(t, nix)
			other := emptyStore(t, nix)
			path := w.run(t, "nix-store", "--add", "/nix/default.nix")
			serveShelf := func(name string, s *shelf) *served {
				return serveNix(t, w.realDaemon, trusted, func(_ context.Context, session *nixproto.Session) (nixproto.Handler, error) {
					s.send = session.Send
					return s, nil
				})
			}
			s := newShelf()
			to := serveShelf("copy-to", s)
			w.run(t, "nix", "copy", "--no-check-sigs", "--to", to.uri, path)
			to.keep(t, clientFile(release, "copy-to"))

			from := serveShelf("copy-from", s)
			other.run(t, "nix", "copy", "--no-check-sigs", "--from", from.uri, path)
			from.keep(t, clientFile(release, "copy-from"))
			require.Equal(t, w.pathInfo(t, narinfo.StorePath(path)).NarHash, other.pathInfo(t, narinfo.StorePath(path)).NarHash)

			build := serveShelf("build", newShelf())
			code, stdout, stderr := w.buildAway(t, build, "-A", "plain")
			require.Zero(t, code, stderr)
			require.Contains(t, stderr, "echo says $name", "the shelf's log is the script")
			require.Equal(t, "-c echo says $name; echo and more >&2; cat $src > $out",
				w.run(t, "cat", stdout))
			build.keep(t, clientFile(release, "build"))
		})
	}
}

// keep saves what was said, with -update.
func (s *served) keep(t *testing.T, file string) {
	t.Helper()
	if !*update {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var all [][]chunk
	for _, r := range s.transcripts {
		r.mu.Lock()
		all = append(all, slices.Clone(r.transcript))
		r.mu.Unlock()
	}
	save(t, file, all)
}

// TestRecordedClients replays what real clients said.
func TestRecordedClients(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			s := newShelf()
			for _, name := range clientNames {
				if name == "build" {
					s = newShelf()
				}
				for i, transcript := range load[[][]chunk](t, clientFile(release, name)) {
					for j := range transcript {
						transcript[j].FromDaemon = !transcript[j].FromDaemon // it was recorded at the server
					}
					conn, ended := serveOnPipe(t.Context(), func(session *nixproto.Session) nixproto.Handler {
						s.send = session.Send
						return s
					}, trusted)
					require.NoError(t, replay(conn, transcript, false), "%s, connection %d", name, i)
					require.NoError(t, ended(), "%s, connection %d", name, i)
				}
			}
		})
	}
}

// FuzzServer lets a client say anything: a session ends with an error of a known kind, or none.
func FuzzServer(f *testing.F) {
	files, err := filepath.Glob("testdata/clients/*.json")
	require.NoError(f, err)
	for _, file := range files {
		for _, transcript := range load[[][]chunk](f, file) {
			var says []byte
			for _, c := range transcript {
				if c.FromDaemon {
					says = append(says, c.Bytes...)
				}
			}
			f.Add(says)
		}
	}
	f.Add(slices.Concat(hello, buildRequest("panic"), wire(46, 1, string(absent), 0, 31, 1, string(absent), 1)))
	f.Add(slices.Concat(hello, wire(7, "n", "text:sha256", 0, 0), frames([]byte("x")), wire(40, 0, 43, "x", 42, "{}", 41, string(absent))))
	f.Add(slices.Concat(hello, wire(19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, "k", "v", 37, string(absent), 1, "k:s", 6, string(absent))))
	f.Fuzz(func(t *testing.T, says []byte) {
		s := newShelf()
		err := nixproto.Serve(context.Background(), deafConn(says), func(_ context.Context, session *nixproto.Session) (nixproto.Handler, error) {
			s.send = session.Send
			return s, nil
		}, trusted)
		if err != nil && !strings.Contains(err.Error(), "client left") {
			requireKnown(t, err, "server")
		}
	})
}
