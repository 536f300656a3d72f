package main_test

import (
	"context"
	"crypto/rand"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

// daemon is a narserved or nix-serve with the flags and the environment that a test gives it, and no others.
type daemon struct {
	cmd  *exec.Cmd
	log  logBuffer
	done chan struct{} // closed when it has exited
}

// startDaemon starts a program of this test binary. env is added to HOME (a new folder) and PATH.
func startDaemon(t *testing.T, env []string, program string, args ...string) *daemon {
	t.Helper()
	return startCommand(t, env, exec.Command(program, args...))
}

func startCommand(t *testing.T, env []string, cmd *exec.Cmd) *daemon {
	t.Helper()
	d := &daemon{cmd: cmd, done: make(chan struct{})}
	cmd.Env = append([]string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "GORACE=halt_on_error=1"}, env...)
	cmd.Stdout, cmd.Stderr = &d.log, &d.log
	require.NoError(t, cmd.Start())
	go func() {
		_ = cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-d.done
		if t.Failed() {
			t.Logf("%s said:\n%s", cmd.Path, d.log.String())
		}
	})
	return d
}

// says waits until the log matches a pattern and returns the match's groups.
func (d *daemon) says(t *testing.T, pattern string) []string {
	t.Helper()
	var groups []string
	require.Eventually(t, func() bool {
		groups = regexp.MustCompile(pattern).FindStringSubmatch(d.log.String())
		return groups != nil
	}, 10*time.Second, 5*time.Millisecond, "the log has %s", pattern)
	return groups
}

// url waits until it listens, and says where.
func (d *daemon) url(t *testing.T) string {
	t.Helper()
	return d.says(t, `msg=listening .*url=(\S+)`)[1]
}

func (d *daemon) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	require.NoError(t, d.cmd.Process.Signal(s))
}

// exit waits for the end and returns the status.
func (d *daemon) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-d.done:
	case <-time.After(20 * time.Second):
		require.Fail(t, "it does not exit")
	}
	return d.cmd.ProcessState.ExitCode()
}

func (d *daemon) stop(t *testing.T) {
	t.Helper()
	d.signal(t, syscall.SIGTERM)
	require.Zero(t, d.exit(t))
}

// bucket is a binary cache in a directory, made without Nix.
type bucket struct{ Dir string }

func newBucket(t *testing.T) *bucket {
	t.Helper()
	b := &bucket{t.TempDir()}
	s, err := bucketstore.Create(b.Dir, narinfo.CacheInfo{WantMassQuery: true}, nil)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, os.MkdirAll(filepath.Join(b.Dir, "nar"), 0o755))
	return b
}

func (b *bucket) URI() string { return "file://" + b.Dir }

// add puts a path with a file of random content in, and returns its narinfo.
func (b *bucket) add(t *testing.T, hash, name string, size int, references ...*narinfo.Info) *narinfo.Info {
	t.Helper()
	content := make([]byte, size)
	_, _ = rand.Read(content)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, content, 0o644))
	archive, err := os.Create(filepath.Join(b.Dir, "nar", hash+".nar"))
	require.NoError(t, err)
	defer archive.Close()
	require.NoError(t, nar.Pack(t.Context(), archive, file))
	text, err := os.ReadFile(archive.Name())
	require.NoError(t, err)

	info := &narinfo.Info{URL: "nar/" + hash + ".nar", Compression: "none", NarSize: int64(len(text))}
	info.NarHash = sha256Hash(t, text)
	info.FileHash, info.FileSize = info.NarHash, info.NarSize
	info.StorePath, err = narinfo.NewStorePath(narinfo.DefaultStoreDir, hash+"-"+name)
	require.NoError(t, err)
	for _, r := range references {
		info.References = append(info.References, r.StorePath)
	}
	b.write(t, info)
	return info
}

func (b *bucket) write(t *testing.T, info *narinfo.Info) {
	t.Helper()
	text, err := info.MarshalText()
	require.NoError(t, err)
	name := string(info.StorePath.HashPart()) + ".narinfo"
	require.NoError(t, os.WriteFile(filepath.Join(b.Dir, name), text, 0o644))
}

// unixClient speaks HTTP over a unix socket.
func unixClient(t *testing.T, path string) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// narURL asks a narinfo for its NAR's URL.
func narURL(t *testing.T, base string, info *narinfo.Info) string {
	t.Helper()
	a := get(t, base+"/"+string(info.StorePath.HashPart())+".narinfo")
	require.Equal(t, http.StatusOK, a.status, "%s", a.body)
	for line := range strings.Lines(string(a.body)) {
		if url, ok := strings.CutPrefix(line, "URL: "); ok {
			return base + "/" + strings.TrimSpace(url)
		}
	}
	require.Fail(t, "a narinfo without URL")
	return ""
}
