package main_test

import (
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
)

// cuttingProxy forwards connections to target and cuts each one after a random number of bytes of the answer.
// It returns its own address, and counts the cuts.
func cuttingProxy(t *testing.T, target string) (address string, cuts *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cuts = new(atomic.Int64)
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() { forward(client, target, cuts) })
		}
	})
	t.Cleanup(func() { listener.Close(); connections.Wait() })
	return listener.Addr().String(), cuts
}

// forward lets 6 to 18 MiB through: Nix waits twice as long after each cut of a transfer, so there must not be many.
func forward(client net.Conn, target string, cuts *atomic.Int64) {
	defer client.Close()
	upstream, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer upstream.Close()
	go func() { _, _ = io.Copy(upstream, client); upstream.Close() }()
	if _, err := io.CopyN(client, upstream, 6<<20+rand.Int64N(12<<20)); err == nil {
		cuts.Add(1)
	}
}

func TestNixResumesThroughAProxyThatCuts(t *testing.T) {
	nix := realnix.Get(t, "2.34")
	p := newPrivateStore(t)
	path := p.Build(t, "large", `dd if=/dev/urandom of=$out bs=1M count=48 2>/dev/null`)
	compressed := t.TempDir()
	p.Run(t, "nix", "copy", "--to", "file://"+compressed+"?compression=zstd", path)

	for name, args := range map[string][]string{
		"identity":             {"--store", p.URI(), "--compression", "none"},
		"zstd of a directory":  {"--store", "file://" + compressed},
		"zstd of a live store": {"--store", p.URI(), "--compression", "zstd"},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, args...)
			require.Equal(t, name != "identity", strings.HasSuffix(s.narinfoFields(t, path)["URL"], ".zst"))
			proxy, cuts := cuttingProxy(t, strings.TrimPrefix(s.URL, "http://"))
			dest := nix.TempDir(t)
			args := append(s.trusting(), "--option", "download-attempts", "100",
				"copy", "--from", "http://"+proxy, "--to", dest, path)
			cmd := nix.Command(t, "nix", args...)
			cmd.Env = append(cmd.Env, "NIX_STORE_DIR="+p.Dir)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Greater(t, cuts.Load(), int64(1), "connections that were cut")

			copied, err := os.ReadFile(filepath.Join(nix.Host(dest), "nix/store", filepath.Base(path)))
			require.NoError(t, err)
			original, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, string(original) == string(copied), "the copy is the original")
		})
	}
}
