package main_test

import (
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
)

// notifySocket stands in for systemd's.
type notifySocket struct {
	path string

	mu       sync.Mutex // guards messages
	messages []string
}

func newNotifySocket(t *testing.T) *notifySocket {
	t.Helper()
	n := &notifySocket{path: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			size, err := conn.Read(buf)
			if err != nil {
				return
			}
			n.mu.Lock()
			n.messages = append(n.messages, string(buf[:size]))
			n.mu.Unlock()
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return n
}

// count is how many messages begin with prefix.
func (n *notifySocket) count(prefix string) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.messages {
		if strings.HasPrefix(m, prefix) {
			count++
		}
	}
	return count
}

func (n *notifySocket) await(t *testing.T, prefix string, count int) {
	t.Helper()
	require.Eventually(t, func() bool { return n.count(prefix) >= count }, 10*time.Second, 5*time.Millisecond,
		"%d messages %s", count, prefix)
}

func TestSystemdIsNotified(t *testing.T) {
	n := newNotifySocket(t)
	d := startDaemon(t, []string{"NOTIFY_SOCKET=" + n.path}, "narserved", "--state-dir", t.TempDir(),
		"--store", newBucket(t).URI(), "--listen", "127.0.0.1:0", "--drain-timeout", "1m")
	n.await(t, "READY=1", 1)
	require.Equal(t, http.StatusOK, get(t, d.url(t)+"/healthz").status, "ready means that it answers")
	require.Zero(t, n.count("WATCHDOG"), "nobody asked for a watchdog")

	d.signal(t, syscall.SIGHUP)
	n.await(t, "RELOADING=1\nMONOTONIC_USEC=", 1)
	n.await(t, "READY=1", 2)
	d.stop(t)
	require.Equal(t, 1, n.count("STOPPING=1\nEXTEND_TIMEOUT_USEC=70000000"))
}

func TestWatchdogIsPettedOnlyInHealth(t *testing.T) {
	n, b := newNotifySocket(t), newBucket(t)
	d := startDaemon(t, []string{"NOTIFY_SOCKET=" + n.path, "WATCHDOG_USEC=60000"}, "narserved",
		"--state-dir", t.TempDir(), "--store", b.URI(), "--listen", "127.0.0.1:0")
	d.url(t)
	n.await(t, "WATCHDOG=1", 3)

	// The health check looks a path up; now the store cannot tell whether it is there.
	bad := filepath.Join(b.Dir, strings.Repeat("0", 32)+".narinfo")
	require.NoError(t, os.WriteFile(bad, []byte("no narinfo"), 0o644))
	d.says(t, `level=ERROR msg="not healthy, watchdog goes without" status=503`)
	before := n.count("WATCHDOG=1")
	for range 3 {
		get(t, d.url(t)+"/healthz")
	}
	require.LessOrEqual(t, n.count("WATCHDOG=1"), before)

	require.NoError(t, os.Remove(bad))
	n.await(t, "WATCHDOG=1", before+1)
}

// TestInheritedSockets hands sockets over as systemd does: from descriptor 3 on, with the process's own id.
func TestInheritedSockets(t *testing.T) {
	for _, test := range []struct {
		name  string
		flags []string
	}{
		{"unasked", nil},
		{"by flag", []string{"--listen", "systemd"}},
		{"by name", []string{"--listen", "systemd:cache"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cache, cacheFile := listenFile(t)
			admin, adminFile := listenFile(t)
			args := append([]string{"-c", `LISTEN_PID=$$ exec narserved "$@"`, "sh", "--state-dir", t.TempDir(),
				"--store", newBucket(t).URI(), "--admin-listen", "systemd:admin"}, test.flags...)
			cmd := exec.Command("sh", args...)
			cmd.ExtraFiles = []*os.File{cacheFile, adminFile}
			d := startCommand(t, []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=cache:admin"}, cmd)
			require.Equal(t, "http://"+cache, d.url(t))
			require.Equal(t, http.StatusOK, get(t, "http://"+cache+"/nix-cache-info").status)
			require.Equal(t, http.StatusOK, get(t, "http://"+admin+"/status").status)
			require.Equal(t, 1, strings.Count(d.log.String(), "msg=listening"), "the default address is not used")
			d.stop(t)
		})
	}
}

func TestSocketsThatWereNotHandedOver(t *testing.T) {
	d := startDaemon(t, nil, "narserved", "--state-dir", t.TempDir(), "--store", newBucket(t).URI(),
		"--listen", "systemd:cache")
	require.Equal(t, 1, d.exit(t))
	require.Contains(t, d.log.String(), "no such socket was handed over")
	require.Contains(t, d.log.String(), "hint: start it from a systemd .socket unit")
}

func listenFile(t *testing.T) (address string, file *os.File) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	file, err = l.(*net.TCPListener).File()
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	return fmt.Sprint(l.Addr()), file
}
