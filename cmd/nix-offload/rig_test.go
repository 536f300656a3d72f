package main_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/offload/hook"
)

// rig is a client with a store of its own and a second machine: the same release on another store that has the same
// name, in a mount namespace. What Nix asks goes through the program as it is installed.
type rig struct {
	nix    realnix.Nix
	dir    string // all of it, inside the release's root
	daemon bool   // the client talks to a nix-daemon, which starts the hook

	coordinator string // socket's path outside
	config      []string
	env         []string
}

// program is nix-offload, built as it is for users.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nix-offload-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "nix-offload")
	build := exec.Command("go", "build", "-o", file, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %s", err, out)
	}
	return file, nil
})

func newRig(t *testing.T, release string, daemon bool) *rig {
	t.Helper()
	nix := realnix.Get(t, release)
	r := &rig{nix: nix, dir: nix.TempDir(t), daemon: daemon}
	r.coordinator = nix.Host(r.dir + "/coordinator")
	for _, place := range []string{"nix", "builder"} {
		require.NoError(t, os.Mkdir(nix.Host(r.dir+"/"+place), 0o755))
		r.write(t, place+"/where", place+"\n", 0o644)
	}
	r.install(t)
	r.write(t, "remote", fmt.Sprintf(`#!/bin/sh
export NIX_REMOTE=local
export NIX_CONFIG="$BUILDER_CONFIG"
exec unshare -m --propagation unchanged /bin/sh -c 'mount --bind %[1]s/builder %[1]s/nix && exec nix-daemon "$@"' sh "$@"
`, r.dir), 0o755)
	config := "sandbox = false\nbuild-users-group =\nsubstituters =\nexperimental-features = nix-command ca-derivations\n"
	r.env = []string{
		"NIX_STORE_DIR=" + r.dir + "/nix/store", "NIX_STATE_DIR=" + r.dir + "/nix/state", "NIX_LOG_DIR=" + r.dir + "/nix/log",
		"NIX_DAEMON_SOCKET_PATH=" + r.dir + "/daemon", "BUILDER_CONFIG=" + config + "builders =\nsystem-features = big",
		"NIX_OFFLOAD_SOCKET=" + r.dir + "/coordinator",
	}
	r.config = strings.Split(config+"builders =\nmax-jobs = 1\nbuild-poll-interval = 1\nbuild-hook = "+r.dir+"/nix-offload-hook", "\n")
	return r
}

// install puts the program where the release finds it.
func (r *rig) install(t *testing.T) {
	t.Helper()
	file, err := program()
	require.NoError(t, err)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	r.write(t, "nix-offload-hook", string(text), 0o755)
}

func (r *rig) write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	require.NoError(t, os.WriteFile(r.nix.Host(r.dir+"/"+name), []byte(text), mode))
}

// start starts the daemon, if there is one.
func (r *rig) start(t *testing.T) {
	t.Helper()
	if !r.daemon {
		return
	}
	cmd := r.nix.Command(t, "nix-daemon")
	cmd.Env = append(cmd.Env, "NIX_REMOTE=local") // else a daemon without a store yet would be its own client
	cmd.Env = append(cmd.Env, r.env...)
	cmd.Env = append(cmd.Env, "NIX_CONFIG="+strings.Join(r.config, "\n"))
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	require.Eventually(t, func() bool {
		// Not by a connection: two clients that make a new store at once may wait for each other for ever.
		_, err := os.Stat(r.nix.Host(r.dir + "/daemon"))
		return err == nil
	}, 20*time.Second, 20*time.Millisecond, "nix-daemon listens")
}

// command prepares a command of the client.
func (r *rig) command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := r.nix.Command(t, name, args...)
	cmd.Env = append(cmd.Env, r.env...)
	if r.daemon {
		cmd.Env = append(cmd.Env, "NIX_REMOTE=daemon", "NIX_CONFIG=substituters =\nexperimental-features = nix-command ca-derivations")
	} else {
		cmd.Env = append(cmd.Env, "NIX_CONFIG="+strings.Join(r.config, "\n"))
	}
	return cmd
}

// result is what a person sees of a command.
type result struct {
	stdout, stderr string
	status         int
	took           time.Duration
}

func (r *rig) run(t *testing.T, name string, args ...string) result {
	t.Helper()
	cmd := r.command(t, name, args...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	started := time.Now()
	require.NoError(t, cmd.Start())
	stuck := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	require.True(t, stuck.Stop(), "%s hangs: %s", name, &stderr)
	if err != nil {
		require.IsType(t, &exec.ExitError{}, err)
	}
	return result{strings.TrimSpace(stdout.String()), stderr.String(), cmd.ProcessState.ExitCode(), time.Since(started)}
}

// build builds a derivation whose script fills its outputs.
func (r *rig) build(t *testing.T, name, script, attributes string, flags ...string) result {
	t.Helper()
	expr := fmt.Sprintf(`derivation ({
		name = "%s"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
		args = [ "-c" %s ];
	} // { %s })`, name, nixString(script), attributes)
	return r.run(t, "nix-build", append([]string{"--no-out-link", "--expr", expr}, flags...)...)
}

func nixString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`).Replace(s) + `"`
}

// whereScript writes into $out which of the two machines has built it.
func (r *rig) whereScript() string { return "cat " + r.dir + "/nix/where > $out" }

// read reads a file out of the client's store.
func (r *rig) read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(r.nix.Host(path))
	require.NoError(t, err)
	return strings.TrimSpace(string(text))
}

// line is the second machine as the coordinator names it: by a name of its own for each lease.
func (r *rig) line(t *testing.T, lease string) string {
	t.Helper()
	link := r.nix.Host(r.dir + "/" + lease)
	if _, err := os.Lstat(link); err != nil {
		require.NoError(t, os.Symlink("remote", link))
	}
	return fmt.Sprintf("ssh-ng://localhost?remote-program=%s/%s x86_64-linux - 1 1 big -", r.dir, lease)
}

// deciderFunc is a coordinator of a test.
type deciderFunc func(hook.Settings, *hook.Try) (*hook.Answer, error)

func (f deciderFunc) Decide(_ context.Context, settings hook.Settings, try *hook.Try) (*hook.Answer, error) {
	return f(settings, try)
}

// coordinate answers hooks until the test's end. It returns what was asked.
func (r *rig) coordinate(t *testing.T, decide deciderFunc) *questions {
	t.Helper()
	q := new(questions)
	r.serve(t, hook.NewHandler(deciderFunc(func(settings hook.Settings, try *hook.Try) (*hook.Answer, error) {
		q.add(*try)
		return decide(settings, try)
	}), nil))
	return q
}

// serve is a coordinator that may be anything.
func (r *rig) serve(t *testing.T, handler http.Handler) {
	t.Helper()
	listener := r.listen(t)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
}

func (r *rig) listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("unix", r.coordinator)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

type questions struct {
	mu   sync.Mutex
	list []hook.Try
}

func (q *questions) add(try hook.Try) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, try)
}

func (q *questions) all() []hook.Try {
	q.mu.Lock()
	defer q.mu.Unlock()
	return append([]hook.Try(nil), q.list...)
}

// everywhere runs a test with each release, on the store itself and through its daemon. prepare may change the rig before
// its daemon starts.
func everywhere(t *testing.T, prepare func(*rig), test func(t *testing.T, r *rig)) {
	for _, release := range realnix.Releases() {
		for _, daemon := range []bool{false, true} {
			name := release + "/single-user"
			if daemon {
				name = release + "/daemon"
			}
			t.Run(name, func(t *testing.T) {
				r := newRig(t, release, daemon)
				prepare(r)
				r.start(t)
				test(t, r)
			})
		}
	}
}
