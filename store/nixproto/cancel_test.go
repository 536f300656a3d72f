package nixproto_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// serve plays a daemon on one end of a pipe: it greets, and then says what then says until that fails.
// nil says nothing. It is gone when the test ends.
func serve(t *testing.T, then func(io.Writer) error) net.Conn {
	client, daemon := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(io.Discard, daemon) })
	wg.Go(func() {
		if _, err := daemon.Write(greeting); err != nil || then == nil {
			return
		}
		for then(daemon) == nil {
		}
	})
	t.Cleanup(func() {
		client.Close()
		wg.Wait()
	})
	return client
}

func chatter(w io.Writer) error {
	time.Sleep(time.Millisecond)
	_, err := w.Write(wire(line, "still here\n"))
	return err
}

func TestContextEndsWait(t *testing.T) {
	tests := []struct {
		name string
		then func(io.Writer) error
	}{
		{"silent daemon", nil},
		{"endless log", chatter},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, err := nixproto.NewClient(t.Context(), serve(t, test.then), nil)
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				started := time.Now()
				_, err = c.PathInfo(ctx, absent)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, 3*time.Second, time.Since(started))
				_, err = c.PathInfo(t.Context(), absent)
				require.ErrorIs(t, err, nixproto.ErrClosed)
			})
		})
	}
}

func TestContextEndsGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, daemon := net.Pipe()
		go io.Copy(io.Discard, daemon)
		stop := errors.New("no more patience")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, stop)
		defer cancel()
		_, err := nixproto.NewClient(ctx, client, nil)
		require.ErrorIs(t, err, stop)
	})
}

func TestContextEndsNAR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said := false
		conn := serve(t, func(w io.Writer) error {
			if said {
				return io.EOF
			}
			said = true
			_, err := w.Write(wire(last, 1, last, "nix-archive-1", "(", "type", "regular", "contents", 1<<30))
			return err
		})
		c, err := nixproto.NewClient(t.Context(), conn, nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		nar, err := c.NARFromPath(ctx, absent)
		require.NoError(t, err)
		_, err = c.IsValidPath(ctx, absent)
		require.ErrorContains(t, err, "busy with a NAR")
		_, err = io.ReadAll(nar)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, nar.Close())
		_, err = nar.Read(make([]byte, 1))
		require.ErrorIs(t, err, nixproto.ErrClosed)
	})
}

// A context that has ended already asks nothing, and leaves the connection as it is.
func TestEndedContext(t *testing.T) {
	says := slices.Concat(greeting, wire(last, 1))
	c, err := nixproto.NewClient(t.Context(), deafConn(says), nil)
	require.NoError(t, err)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.IsValidPath(ended, absent)
	require.ErrorIs(t, err, context.Canceled)
	valid, err := c.IsValidPath(t.Context(), absent)
	require.NoError(t, err)
	require.True(t, valid)
}

func TestCloseEndsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := nixproto.NewClient(t.Context(), serve(t, nil), nil)
		require.NoError(t, err)
		time.AfterFunc(time.Second, func() { c.Close() })
		_, err = c.PathInfo(t.Context(), absent)
		require.Error(t, err)
		require.NoError(t, c.Close())
		_, err = c.PathInfo(t.Context(), absent)
		require.ErrorIs(t, err, nixproto.ErrClosed)
	})
}

// What remains of a NAR is not read for nothing: the connection goes instead.
func TestNARClosedEarly(t *testing.T) {
	says := slices.Concat(greeting, wire(last, 1, last, "nix-archive-1"))
	c, err := nixproto.NewClient(t.Context(), deafConn(says), nil)
	require.NoError(t, err)
	nar, err := c.NARFromPath(t.Context(), absent)
	require.NoError(t, err)
	require.NoError(t, nar.Close())
	_, err = c.IsValidPath(t.Context(), absent)
	require.ErrorIs(t, err, nixproto.ErrClosed)
}

// The framing of a NAR is the same however its bytes arrive and however they are read.
func TestNARReader(t *testing.T) {
	nar := wire("nix-archive-1", "(", "type", "directory",
		"entry", "(", "name", "a", "node", "(", "type", "regular", "executable", "", "contents", "hello", ")", ")",
		"entry", "(", "name", "b", "node", "(", "type", "symlink", "target", ")", ")", ")",
		"entry", "(", "name", "c", "node", "(", "type", "regular", ")", ")",
		"entry", "(", "name", "d", "node", "(", "type", "directory", ")", ")", ")")
	conn := deaf{iotest.OneByteReader(bytes.NewReader(slices.Concat(greeting, wire(last, 1, last), nar, wire(last, 1))))}
	c, err := nixproto.NewClient(t.Context(), conn, nil)
	require.NoError(t, err)
	r, err := c.NARFromPath(t.Context(), absent)
	require.NoError(t, err)
	require.NoError(t, iotest.TestReader(r, nar))
	require.NoError(t, r.Close())
	valid, err := c.IsValidPath(t.Context(), absent)
	require.NoError(t, err)
	require.True(t, valid)
}
