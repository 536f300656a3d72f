package main

import (
	"bufio"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

// TestCancellingStopsAServer runs a server inside the test, as an embedding program might.
func TestCancellingStopsAServer(t *testing.T) {
	dir := t.TempDir()
	s, err := bucketstore.Create(dir, narinfo.CacheInfo{}, nil)
	require.NoError(t, err)
	require.NoError(t, s.Close())

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reader, writer := io.Pipe()
	var stdout strings.Builder
	done := make(chan error, 1)
	go func() {
		args := []string{"narserved", "--listen", "127.0.0.1:0", "--store", "file://" + dir,
			"--state-dir", t.TempDir(), "--unsigned"}
		done <- run(ctx, args, nil, strings.NewReader(""), &stdout, writer)
		writer.Close()
	}()
	var last string
	for lines := bufio.NewScanner(reader); lines.Scan(); {
		if last = lines.Text(); strings.Contains(last, "msg=listening") {
			cancel()
		}
	}
	require.NoError(t, <-done)
	require.Contains(t, last, "msg=stopped")
	require.Empty(t, stdout.String(), "stdout is data, and a server has none")
}
