package ssh_test

import (
	"bytes"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"

	"github.com/voidnxlab/nixtrap/internal/buildertest"
	"github.com/voidnxlab/nixtrap/internal/relay"
	"github.com/voidnxlab/nixtrap/offload/ssh"
)

// fast are options whose times a test can wait for, and whose breaker stays open for the rest of the test.
func fast() *ssh.Options {
	return &ssh.Options{
		KnownHosts: []string{}, Connect: 500 * time.Millisecond, Handshake: 2 * time.Second, Silence: time.Second,
		MinBackoff: time.Hour, MaxBackoff: time.Hour,
	}
}

// host is a builder behind a link, by its right keys.
func host(t *testing.T, b *buildertest.Builder, link *relay.Relay) *ssh.Host {
	t.Helper()
	at := b.Addr()
	if link != nil {
		at = link.Addr()
	}
	name, port, err := net.SplitHostPort(at)
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	return &ssh.Host{
		Name: "builder-1", Line: "/etc/nix/machines:7", Address: name, Port: n, User: b.User,
		KeyFiles: []string{b.Key}, HostKeys: []xssh.PublicKey{b.HostKey},
	}
}

// pools counts those that are open.
var pools atomic.Int64

// open makes a pool that the test's end closes. When the last one is closed, nothing of them runs.
func open(t *testing.T, h *ssh.Host, o *ssh.Options) *ssh.Pool {
	t.Helper()
	p, err := ssh.NewPool(h, o)
	require.NoError(t, err)
	pools.Add(1)
	t.Cleanup(func() {
		require.NoError(t, p.Close())
		if pools.Add(-1) == 0 {
			buildertest.Await(t, "no goroutine is left", func() bool { return !strings.Contains(goroutines(), "/ssh.") })
		}
	})
	return p
}

// goroutines are the stacks of all but this one's tests.
func goroutines() string {
	buf := make([]byte, 4<<20)
	var others []string
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if !strings.Contains(stack, "ssh_test.") && !strings.Contains(stack, "testing.") {
			others = append(others, stack)
		}
	}
	return strings.Join(others, "\n\n")
}

// run runs a command to its end.
func run(t *testing.T, p *ssh.Pool, command, stdin string) (stdout, stderr string, err error) {
	t.Helper()
	var errs bytes.Buffer
	s, err := p.Open(t.Context(), command, &errs)
	if err != nil {
		return "", "", err
	}
	_, err = s.Write([]byte(stdin))
	require.NoError(t, err)
	require.NoError(t, s.CloseWrite())
	var out bytes.Buffer
	_, err = out.ReadFrom(s)
	require.NoError(t, err)
	err = s.Wait()
	return out.String(), errs.String(), err
}

// fails asserts that an error is of a kind and names the builder, and returns it.
func fails(t *testing.T, err error, kind ssh.Kind) *ssh.Error {
	t.Helper()
	var e *ssh.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, kind, e.Kind, e.Error())
	require.Equal(t, "builder-1", e.Host)
	require.Contains(t, e.Error(), `"builder-1"`)
	return e
}

// slow takes two seconds for a MiB, and half a round trip of a satellite.
var slow = relay.Shape{Delay: 250 * time.Millisecond, Rate: 512 << 10}
