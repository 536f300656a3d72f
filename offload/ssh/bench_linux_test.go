package ssh_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/voidnxlab/nixtrap/internal/buildertest"
	"github.com/voidnxlab/nixtrap/internal/relay"
	"github.com/voidnxlab/nixtrap/offload/ssh"
)

// openSSH prepares the stock client for the same builder.
func openSSH(b *testing.B, builder *buildertest.Builder, link *relay.Relay, command string) *exec.Cmd {
	b.Helper()
	known := filepath.Join(b.TempDir(), "known_hosts")
	require.NoError(b, os.WriteFile(known, []byte(knownhosts.Line([]string{link.Addr()}, builder.HostKey)+"\n"), 0o600))
	host, port, err := net.SplitHostPort(link.Addr())
	require.NoError(b, err)
	return exec.CommandContext(b.Context(), "ssh", "-F", "none", "-o", "UserKnownHostsFile="+known, "-o", "BatchMode=yes",
		"-i", builder.Key, "-p", port, builder.User+"@"+host, command)
}

func benchPool(b *testing.B, builder *buildertest.Builder, link *relay.Relay) *ssh.Pool {
	b.Helper()
	h, _, err := ssh.ParseHost("ssh-ng://root@"+link.Addr(), builder.Key, "")
	require.NoError(b, err)
	known := filepath.Join(b.TempDir(), "known_hosts")
	require.NoError(b, os.WriteFile(known, []byte(knownhosts.Line([]string{link.Addr()}, builder.HostKey)+"\n"), 0o600))
	p, err := ssh.NewPool(h, &ssh.Options{KnownHosts: []string{known}})
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	return p
}

// far is half of a round trip of 20 ms.
var far = relay.Shape{Delay: 10 * time.Millisecond}

// BenchmarkUpload sends 64 MiB to a builder at a round trip of 20 ms, by the stock client and by a pool in turn, each
// with a connection of its own. The metric "of-openssh" is the pool's time as a part of the stock client's.
func BenchmarkUpload(b *testing.B) {
	const size = 64 << 20
	builder := buildertest.Start(b, nil)
	link := buildertest.Relay(b, builder)
	link.Shape(far, far)
	data := make([]byte, size)
	var theirs, ours time.Duration
	b.SetBytes(size)
	for b.Loop() {
		start := time.Now()
		cmd := openSSH(b, builder, link, "cat >/dev/null")
		cmd.Stdin = bytes.NewReader(data)
		require.NoError(b, cmd.Run())
		theirs += time.Since(start)
		start = time.Now()
		p := benchPool(b, builder, link)
		s, err := p.Open(b.Context(), "cat >/dev/null", nil)
		require.NoError(b, err)
		_, err = s.Write(data)
		require.NoError(b, err)
		require.NoError(b, s.CloseWrite())
		require.NoError(b, s.Wait())
		require.NoError(b, p.Close())
		ours += time.Since(start)
	}
	b.ReportMetric(float64(ours)/float64(theirs), "of-openssh")
}

// BenchmarkDownload is the other direction.
func BenchmarkDownload(b *testing.B) {
	const size = 64 << 20
	builder := buildertest.Start(b, nil)
	link := buildertest.Relay(b, builder)
	link.Shape(far, far)
	var theirs, ours time.Duration
	b.SetBytes(size)
	for b.Loop() {
		start := time.Now()
		require.NoError(b, openSSH(b, builder, link, "head -c 67108864 /dev/zero").Run())
		theirs += time.Since(start)
		start = time.Now()
		p := benchPool(b, builder, link)
		s, err := p.Open(b.Context(), "head -c 67108864 /dev/zero", nil)
		require.NoError(b, err)
		n, err := io.Copy(io.Discard, s)
		require.NoError(b, err)
		require.EqualValues(b, size, n)
		require.NoError(b, s.Wait())
		require.NoError(b, p.Close())
		ours += time.Since(start)
	}
	b.ReportMetric(float64(ours)/float64(theirs), "of-openssh")
}

// BenchmarkOpen runs a command that does nothing, at a round trip of 20 ms: on the pool's connection, and by the stock
// client, which connects anew.
func BenchmarkOpen(b *testing.B) {
	builder := buildertest.Start(b, nil)
	link := buildertest.Relay(b, builder)
	link.Shape(far, far)
	p := benchPool(b, builder, link)
	var theirs, ours time.Duration
	for b.Loop() {
		start := time.Now()
		require.NoError(b, openSSH(b, builder, link, "true").Run())
		theirs += time.Since(start)
		start = time.Now()
		s, err := p.Open(b.Context(), "true", nil)
		require.NoError(b, err)
		require.NoError(b, s.Wait())
		ours += time.Since(start)
	}
	b.ReportMetric(float64(ours)/float64(theirs), "of-openssh")
}
