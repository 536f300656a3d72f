package main_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
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
	"github.com/voidnxlab/nixtrap/signing"
)

// server is a running narserved: this very test binary, started anew as the command.
type server struct {
	URL       string
	Admin     string
	PublicKey string

	cmd *exec.Cmd
	log logBuffer
}

// logBuffer collects a process's output while it runs.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// startServer starts narserved with a signing key and a state folder of its own and waits until it answers.
// The test's end stops it; a test that fails shows its log.
func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	state := t.TempDir()
	key, err := signing.GenerateKey("test.example.org-1")
	require.NoError(t, err)
	keyFile := filepath.Join(state, "key")
	text, err := key.MarshalText()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(keyFile, text, 0o600))

	listen, admin := freeAddress(t), freeAddress(t)
	s := &server{URL: "http://" + listen, Admin: "http://" + admin, PublicKey: key.Public().String()}
	s.cmd = exec.CommandContext(t.Context(), "narserved", append([]string{
		"serve", "--listen", listen, "--admin-listen", admin, "--state-dir", state, "--sign-key", keyFile,
	}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 10 * time.Second
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		if t.Failed() {
			t.Logf("narserved said:\n%s", s.log.String())
		}
	})
	require.Eventually(t, func() bool { return get(t, s.URL+"/healthz").status == http.StatusOK },
		10*time.Second, 10*time.Millisecond, "narserved answers")
	return s
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// answer is a whole response; err is what went wrong while its body was read.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error
}

var httpClient = &http.Client{Timeout: time.Minute}

func get(t *testing.T, url string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, url, nil)
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, body, err}
}

// narinfoFields fetches the narinfo of a store path and splits it into its fields.
func (s *server) narinfoFields(t *testing.T, storePath string) map[string]string {
	t.Helper()
	a := get(t, s.URL+"/"+hashPart(storePath)+".narinfo")
	require.NoError(t, a.err)
	require.Equal(t, http.StatusOK, a.status, "narinfo of %s: %s", storePath, a.body)
	fields := make(map[string]string)
	for line := range strings.Lines(string(a.body)) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		require.True(t, ok, "narinfo line %q", line)
		fields[key] = value
	}
	return fields
}

// someClosure is the top of a closure of 30 packages, or of 150 with NIXTRAP_SOAK, for tests of which the longer ones take
// minutes.
func someClosure(t *testing.T) (top string, paths int) {
	t.Helper()
	n := 30
	if os.Getenv("NIXTRAP_SOAK") != "" {
		n = 150
	}
	return realnix.Closure(t, n), n + 1
}

func hashPart(storePath string) string { return filepath.Base(storePath)[:32] }

// trusting are the options with which a client demands signatures by the server's key.
func (s *server) trusting() []string {
	return []string{"--option", "require-sigs", "true", "--option", "trusted-public-keys", s.PublicKey}
}

// privateStore is a Nix store that belongs to one test, in a store directory of its own, built in by Nix 2.8.
type privateStore struct {
	Dir   string // the store directory, as the store's paths have it
	real  string // where it lies
	State string
	Logs  string
	nix   realnix.Nix
}

func newPrivateStore(t *testing.T) *privateStore {
	t.Helper()
	return newPrivateStoreOf(t, "2.8")
}

func newPrivateStoreOf(t *testing.T, release string) *privateStore {
	t.Helper()
	nix := realnix.Get(t, release)
	dir := nix.TempDir(t)
	return &privateStore{Dir: dir + "/store", real: dir + "/store", State: dir + "/state", Logs: dir + "/log", nix: nix}
}

// move puts the store elsewhere, with its paths as they were. A new store may be made where it was.
func (p *privateStore) move(t *testing.T) {
	t.Helper()
	dir := p.nix.TempDir(t)
	for _, place := range []*string{&p.real, &p.State, &p.Logs} {
		moved := filepath.Join(dir, filepath.Base(*place))
		require.NoError(t, os.Rename(p.nix.Host(*place), p.nix.Host(moved)))
		*place = moved
	}
}

// URI is the store for narserved's --store.
func (p *privateStore) URI() string {
	host := p.nix.Host
	return fmt.Sprintf("local?store=%s&real=%s&state=%s&log=%s", p.Dir, host(p.real), host(p.State), host(p.Logs))
}

// Command prepares one of Nix's programs to work on this store.
func (p *privateStore) Command(t *testing.T, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := p.nix.Command(t, program, args...)
	cmd.Env = append(cmd.Env, "NIX_STORE_DIR="+p.Dir, "NIX_STATE_DIR="+p.State, "NIX_LOG_DIR="+p.Logs)
	return cmd
}

// Run runs one of Nix's programs on this store and returns its stdout without white space around.
func (p *privateStore) Run(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := p.Command(t, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s %s: %s", program, strings.Join(args, " "), stderr.String())
	return strings.TrimSpace(string(out))
}

// Build builds a derivation whose script fills $out, and returns its output path.
func (p *privateStore) Build(t *testing.T, name, script string) string {
	t.Helper()
	return p.Run(t, "nix-build", "--no-out-link", "--expr", derivation(name, script, ""))
}

func derivation(name, script, more string) string {
	return fmt.Sprintf(`derivation { name = %q; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
		args = [ "-ec" %q ]; %s }`, name, script, more)
}
