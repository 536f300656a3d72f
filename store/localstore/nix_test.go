package localstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/localstore"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

const expression = `let
  make = name: script: more: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  } // more);
  addressed = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
in rec {
  base = make "base" "echo base > $out" { };
  top = make "top" ''mkdir -p $out/dir; echo $base $out > $out/dir/refs; : > $out/empty
    echo run > $out/run; chmod +x $out/run; ln -s run $out/link; echo built top'' { inherit base; };
  caBase = make "ca-base" "echo base > $out" addressed;
  caTop = make "ca-top" "echo $caBase > $out; echo doc > $doc" (
    addressed // { inherit caBase; outputs = [ "out" "doc" ]; });
  changing = make "changing" "cat ${toString ./counter} > $out" { };
}`

// realStore is a private store of a real Nix, in a store directory of its own.
type realStore struct {
	nix realnix.Nix
	dir string // as Nix sees it
}

func newRealStore(t *testing.T, nix realnix.Nix) *realStore {
	t.Helper()
	r := &realStore{nix, nix.TempDir(t)}
	require.NoError(t, os.WriteFile(r.host("default.nix"), []byte(expression), 0o644))
	require.NoError(t, os.WriteFile(r.host("counter"), []byte("0\n"), 0o644))
	return r
}

func (r *realStore) host(name string) string { return r.nix.Host(filepath.Join(r.dir, name)) }

func (r *realStore) options() *localstore.Options {
	return &localstore.Options{
		StoreDir: r.dir + "/store", RealStoreDir: r.host("store"), StateDir: r.host("state"), LogDir: r.host("log"),
		NoDaemon: true,
	}
}

func (r *realStore) command(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := r.nix.Command(t, program, args...)
	cmd.Env = append(cmd.Env, "NIX_STORE_DIR="+r.dir+"/store", "NIX_STATE_DIR="+r.dir+"/state",
		"NIX_LOG_DIR="+r.dir+"/log", "NIX_REMOTE=local")
	return cmd
}

func (r *realStore) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := r.command(t, program, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "Nix %s: %s %q\n%s", r.nix.Release, program, args, &stderr)
	return strings.TrimSpace(string(out))
}

func (r *realStore) build(t *testing.T, attribute string) []narinfo.StorePath {
	t.Helper()
	var paths []narinfo.StorePath
	text := r.run(t, "nix-build", r.dir+"/default.nix", "--no-out-link", "-A", attribute)
	for line := range strings.SplitSeq(text, "\n") {
		path, err := narinfo.ParseStorePath(line)
		require.NoError(t, err)
		paths = append(paths, path)
	}
	return paths
}

// entry asks Nix what it knows of a path.
func (r *realStore) entry(t *testing.T, path narinfo.StorePath) storetest.Entry {
	t.Helper()
	ask := func(what string) string { return r.run(t, "nix-store", "--query", what, string(path)) }
	info := &narinfo.Info{StorePath: path}
	var err error
	info.NarHash, err = narinfo.ParseHash(ask("--hash"))
	require.NoError(t, err)
	info.NarSize, err = strconv.ParseInt(ask("--size"), 10, 64)
	require.NoError(t, err)
	for _, ref := range strings.Fields(ask("--references")) {
		info.References = append(info.References, narinfo.StorePath(ref))
	}
	slices.Sort(info.References)
	if deriver := ask("--deriver"); deriver != "unknown-deriver" {
		info.Deriver = narinfo.StorePath(deriver)
	}
	dump, err := r.command(t, "nix-store", "--dump", string(path)).Output()
	require.NoError(t, err)
	return storetest.Entry{Info: info, NAR: dump}
}

// startDaemon serves the store until the test's end.
func (r *realStore) startDaemon(t *testing.T) (socket string) {
	t.Helper()
	cmd := r.command(t, "nix-daemon")
	socket = r.dir + "/socket"
	cmd.Env = append(cmd.Env, "NIX_DAEMON_SOCKET_PATH="+socket)
	log, err := os.Create(r.host("daemon.log"))
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() }) // the test's context has ended by now, which kills
	require.Eventually(t, func() bool {
		conn, err := net.Dial("unix", r.nix.Host(socket))
		return err == nil && conn.Close() == nil
	}, 20*time.Second, 10*time.Millisecond, "nix-daemon does not listen")
	return r.nix.Host(socket)
}

func TestRealStoresConform(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			r := newRealStore(t, realnix.Get(t, release))
			base, top := r.build(t, "base")[0], r.build(t, "top")[0]
			entries := []storetest.Entry{r.entry(t, top), r.entry(t, base)}
			open := func(o *localstore.Options) func(*testing.T) storetest.Fixture {
				return func(t *testing.T) storetest.Fixture {
					s, err := localstore.Open(t.Context(), o)
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, s.Close()) })
					return storetest.Fixture{Store: s, Entries: entries}
				}
			}
			t.Run("database", func(t *testing.T) { storetest.Test(t, open(r.options())) })
			t.Run("daemon", func(t *testing.T) {
				o := r.options()
				o.NoDaemon, o.NoDatabase, o.DaemonSocket = false, true, r.startDaemon(t)
				storetest.Test(t, open(o))
			})
			t.Run("log", func(t *testing.T) {
				f := open(r.options())(t)
				log, err := f.Store.(store.LogOpener).OpenLog(t.Context(), entries[0].Info.Deriver)
				require.NoError(t, err)
				text, err := io.ReadAll(log)
				require.NoError(t, err)
				require.Equal(t, "built top\n", string(text))
				require.NoError(t, log.Close())
			})
		})
	}
}

func TestRealRealisations(t *testing.T) {
	for _, nix := range realnix.All(t) {
		r := newRealStore(t, nix)
		r.build(t, "base")
		s, err := localstore.Open(t.Context(), r.options())
		require.NoError(t, err)
		_, err = s.Realisation(t.Context(), "sha256:"+strings.Repeat("0", 64)+"!out")
		require.ErrorIs(t, err, store.ErrNotFound, "before there are any")

		r.run(t, "nix", "copy", "--to", "file://"+r.dir+"/cache?store="+r.dir+"/store", "--impure",
			"-f", r.dir+"/default.nix", "caTop")
		files, err := filepath.Glob(r.host("cache/realisations/*.doi"))
		require.NoError(t, err)
		require.GreaterOrEqual(t, len(files), 1, "Nix %s", nix.Release)
		for _, file := range files {
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			id := strings.TrimSuffix(filepath.Base(file), ".doi")
			got, err := s.Realisation(t.Context(), id)
			require.NoError(t, err, "Nix %s: %s", nix.Release, id)
			require.Equal(t, string(want), string(got), "Nix %s", nix.Release)
		}
		for _, id := range []string{"", "!", "x", "sha256:x!out", strings.TrimSuffix(filepath.Base(files[0]), "out.doi")} {
			_, err = s.Realisation(t.Context(), id)
			require.ErrorIs(t, err, store.ErrNotFound, "%q", id)
		}
		require.NoError(t, s.Close())
	}
}

func TestRealChrootRoot(t *testing.T) {
	for _, nix := range realnix.All(t) {
		root := nix.TempDir(t)
		require.NoError(t, os.WriteFile(nix.Host(root+"/text"), []byte("text\n"), 0o644))
		path := nix.Run(t, "nix", "store", "add-file", "--store", root+"/root", root+"/text")
		o, err := localstore.ParseURI(nix.Host(root + "/root"))
		require.NoError(t, err)
		s, err := localstore.Open(t.Context(), o)
		require.NoError(t, err)
		info, err := s.Info(t.Context(), narinfo.StorePath(path).HashPart())
		require.NoError(t, err, "Nix %s", nix.Release)
		require.Equal(t, path, string(info.StorePath))
		require.Contains(t, string(info.CA), "fixed:", "Nix %s", nix.Release)
		text, err := read(t, s, info)
		require.NoError(t, err)
		require.Contains(t, string(text), "text\n")
		require.NoError(t, s.Close())
	}
}

func TestDaemonWhereTheDatabaseCannotBeRead(t *testing.T) {
	for _, nix := range realnix.All(t) {
		r := newRealStore(t, nix)
		top := r.build(t, "top")[0]
		want := r.entry(t, top)
		state := t.TempDir()
		var log lockedBuffer
		o := r.options()
		o.StateDir, o.NoDaemon, o.DaemonSocket, o.Logger = state, false, r.startDaemon(t), logTo(&log)
		s, err := localstore.Open(t.Context(), o)
		require.NoError(t, err)
		ask := func() {
			info, err := s.Info(t.Context(), top.HashPart())
			require.NoError(t, err)
			require.Equal(t, want.Info.NarHash, info.NarHash)
			text, err := read(t, s, info)
			require.NoError(t, err)
			require.True(t, bytes.Equal(want.NAR, text))
		}
		ask()
		ask()
		require.Equal(t, 1, strings.Count(log.String(), "source=daemon"), log.String())
		require.NoError(t, os.Symlink(r.host("state/db"), filepath.Join(state, "db")))
		require.Eventually(t, func() bool {
			ask()
			return strings.Contains(log.String(), "source=database")
		}, 5*time.Second, 100*time.Millisecond, log.String())
		require.NoError(t, s.Close())
	}
}

// While Nix adds, deletes and rebuilds paths, nobody sees a lock error, a stale answer or a wrong byte.
// It takes five seconds for each release, or a minute if NIXTRAP_SOAK is set.
func TestRealWriterBesideReaders(t *testing.T) {
	length := 5 * time.Second
	if os.Getenv("NIXTRAP_SOAK") != "" {
		length = time.Minute
	}
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			r := newRealStore(t, realnix.Get(t, release))
			w := &soak{realStore: r, rebuilt: r.build(t, "changing")[0], kept: r.build(t, "top")[0]}
			var log lockedBuffer
			o := r.options()
			o.Logger = logTo(&log)
			localstore.SetAges(o, 1, 1)
			s, err := localstore.Open(t.Context(), o)
			require.NoError(t, err)
			defer s.Close()
			ctx, stop := context.WithTimeout(t.Context(), length)
			defer stop()
			g, ctx := errgroup.WithContext(ctx)
			reads := make([]int, 16)
			for i := range reads {
				g.Go(func() (err error) {
					for ctx.Err() == nil && err == nil {
						err = w.read(t.Context(), s)
						reads[i]++
					}
					return err
				})
			}
			rounds := 0
			for ctx.Err() == nil {
				w.round(t, s, rounds)
				rounds++
			}
			require.NoError(t, g.Wait())
			require.NotContains(t, log.String(), "level=ERROR")
			total := 0
			for _, n := range reads {
				total += n
			}
			require.Positive(t, rounds)
			t.Logf("%d rounds, %d reads", rounds, total)
		})
	}
}

type soak struct {
	*realStore
	rebuilt, kept narinfo.StorePath
}

// round deletes a path and builds it again with other content; what Nix says, the store must say at once.
func (w *soak) round(t *testing.T, s *localstore.Store, n int) {
	t.Helper()
	// Nix takes descriptors that are open on a path, as our readers' are, for a reason to keep it.
	w.run(t, "nix-store", "--delete", "--ignore-liveness", string(w.rebuilt))
	_, err := s.Info(t.Context(), w.rebuilt.HashPart())
	require.ErrorIs(t, err, store.ErrNotFound)
	text := strings.Repeat(strconv.Itoa(n)+" ", 100_000)
	require.NoError(t, os.WriteFile(w.host("counter"), []byte(text), 0o644))
	w.build(t, "changing")
	info, err := s.Info(t.Context(), w.rebuilt.HashPart())
	require.NoError(t, err)
	got, err := read(t, s, info)
	require.NoError(t, err)
	require.Contains(t, string(got), text)
}

// read reads both paths. The one that Nix rebuilds may be absent, or vanish meanwhile.
func (w *soak) read(ctx context.Context, s *localstore.Store) error {
	for _, path := range []narinfo.StorePath{w.kept, w.rebuilt} {
		info, err := s.Info(ctx, path.HashPart())
		if err == nil {
			err = store.Verify(ctx, s, info)
		}
		fleeting := errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt)
		if err != nil && (path == w.kept || !fleeting) {
			return err
		}
	}
	return nil
}
