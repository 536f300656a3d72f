package nixproto_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// expression makes paths with and without references, outputs and content addresses.
const expression = `let
  make = name: script: more: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  } // more);
in rec {
  base = make "base" "echo base > $out" { };
  top = make "top" ''mkdir -p $out/dir; echo $base $out > $out/dir/refs; echo $doc > $out/doc; : > $out/empty
    echo run > $out/run; chmod +x $out/run; ln -s dir/refs $out/link; echo documents > $doc'' {
    inherit base; outputs = [ "out" "doc" ]; };
  addressed = make "addressed" "echo addressed > $out" {
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
}`

// fixture names what the private store of a daemon holds.
type fixture struct {
	Base, Top, Doc, TopDrv, Addressed, AddressedDrv, Vanished narinfo.StorePath
	RealisationID                                             string
}

// realDaemon is a nix-daemon of its own, over a private store that it and its tools see as /nix.
type realDaemon struct {
	nix    realnix.Nix
	dir    string // inside the release's root; mounted at /nix
	socket string // as this process sees it
	fixture
}

// startDaemon fills a store and serves it until the test's end.
func startDaemon(t *testing.T, nix realnix.Nix) *realDaemon {
	t.Helper()
	d := emptyStore(t, nix)
	d.fill(t)
	d.start(t)
	return d
}

// emptyStore is a private store without a daemon.
func emptyStore(t *testing.T, nix realnix.Nix) *realDaemon {
	t.Helper()
	dir := nix.TempDir(t)
	d := &realDaemon{nix: nix, dir: dir, socket: nix.Host(filepath.Join(dir, "socket"))}
	d.run(t, "nix-store", "--init") // a daemon that finds no state folder asks the daemon, which is itself
	return d
}

// start serves the store on its socket until the test's end.
func (d *realDaemon) start(t *testing.T) {
	t.Helper()
	cmd := d.command(t, "nix-daemon")
	cmd.Env = append(cmd.Env, "NIX_DAEMON_SOCKET_PATH="+filepath.Join(d.dir, "socket"))
	// A file rather than a pipe: the daemon's children, one a connection, hold it open.
	log, err := os.Create(d.nix.Host(filepath.Join(d.dir, "log")))
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { // the test's context has ended by now, which kills
		cmd.Wait()
		log.Close()
	})
	require.Eventually(t, func() bool {
		_, err := os.Stat(d.socket)
		return err == nil
	}, 20*time.Second, 10*time.Millisecond, "nix-daemon makes no socket")
}

// stdio starts a program that speaks a protocol on its standard input and output.
func (d *realDaemon) stdio(t *testing.T, program string, args ...string) *stdio {
	t.Helper()
	cmd := d.command(t, program, args...)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	s := &stdio{WriteCloser: in, out: out}
	cmd.Stderr = &s.stderr
	require.NoError(t, cmd.Start())
	s.wait, s.kill = cmd.Wait, cmd.Process.Kill
	t.Cleanup(func() { s.Close() })
	return s
}

// stdio is a process's standard input and output as a connection.
type stdio struct {
	io.WriteCloser
	out    io.ReadCloser
	stderr bytes.Buffer // complete once the connection is closed
	wait   func() error
	kill   func() error
	killed atomic.Bool // it did not end by itself when it was left
}

func (s *stdio) Read(p []byte) (int, error) { return s.out.Read(p) }

func (s *stdio) Close() error {
	s.WriteCloser.Close()
	kill := time.AfterFunc(5*time.Second, func() {
		s.killed.Store(true)
		s.kill()
	})
	defer kill.Stop()
	s.wait() // closes out
	return nil
}

// command prepares a command in a mount namespace whose /nix is the private one.
func (d *realDaemon) command(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	script := `mkdir -p /nix "$0" && mount --bind "$0" /nix && exec "$@"`
	cmd := d.nix.Command(t, "env", append([]string{"sh", "-c", script, d.dir, program}, args...)...)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS // and no mount of ours is seen outside
	return cmd
}

func (d *realDaemon) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := d.command(t, program, args...)
	stderr := new(strings.Builder)
	cmd.Stderr = stderr
	stdout, err := cmd.Output()
	require.NoError(t, err, "Nix %s: %s %q\n%s", d.nix.Release, program, args, stderr)
	return strings.TrimSpace(string(stdout))
}

func (d *realDaemon) fill(t *testing.T) {
	t.Helper()
	require.NoError(t, os.WriteFile(d.nix.Host(d.dir+"/default.nix"), []byte(expression), 0o644))
	require.NoError(t, os.WriteFile(d.nix.Host(d.dir+"/vanished"), []byte("vanished\n"), 0o644))
	key, err := signing.GenerateKey("nixproto-1")
	require.NoError(t, err)
	secret, err := key.MarshalText()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(d.nix.Host(d.dir+"/key"), secret, 0o600))

	build := func(attribute string) []narinfo.StorePath {
		return parsePaths(t, d.run(t, "nix-build", "/nix/default.nix", "--no-out-link", "-A", attribute))
	}
	d.Base, d.Top, d.Doc, d.Addressed = build("base")[0], build("top")[0], build("top.doc")[0], build("addressed")[0]
	drvs := parsePaths(t, d.run(t, "nix-instantiate", "/nix/default.nix", "-A", "top", "-A", "addressed"))
	d.TopDrv, d.AddressedDrv = drvs[0], drvs[1]
	d.Vanished = parsePaths(t, d.run(t, "nix-store", "--add", "/nix/vanished"))[0]
	require.NoError(t, os.Remove(d.nix.Host(d.dir+"/store/"+d.Vanished.Base())))
	d.run(t, "nix", "store", "sign", "--key-file", "/nix/key", string(d.Top))

	var realised []struct{ ID string }
	text := d.run(t, "nix", "realisation", "info", "--json", "-f", "/nix/default.nix", "addressed")
	require.NoError(t, json.Unmarshal([]byte(text), &realised), text)
	require.NotEmpty(t, realised, text)
	d.RealisationID = realised[0].ID
}

func parsePaths(t *testing.T, text string) []narinfo.StorePath {
	t.Helper()
	var paths []narinfo.StorePath
	for line := range strings.SplitSeq(text, "\n") {
		line, _, _ = strings.Cut(line, "!")
		path, err := narinfo.ParseStorePath(line)
		require.NoError(t, err, "%q", text)
		paths = append(paths, path)
	}
	return paths
}
