package nixproto_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// fakeDaemon greets each connection and says that every path is valid.
type fakeDaemon struct {
	dialled, open, peak atomic.Int64
	delay               time.Duration // before each answer
	answers             int64         // a connection's number of answers before it goes; 0: no end
	refuse              bool          // answers with errors
	mute                bool          // goes without an answer
}

func (f *fakeDaemon) dial(ctx context.Context) (*nixproto.Client, error) {
	client, daemon := net.Pipe()
	f.dialled.Add(1)
	f.peak.Store(max(f.peak.Load(), f.open.Add(1)))
	go f.serve(daemon)
	return nixproto.NewClient(ctx, client, nil)
}

func (f *fakeDaemon) serve(conn net.Conn) {
	defer f.open.Add(-1)
	defer conn.Close()
	hello := make([]byte, 5*8) // magic, version, no features, two zeros
	if _, err := io.ReadFull(conn, hello[:16]); err != nil {
		return
	}
	conn.Write(greeting[:16])
	io.ReadFull(conn, hello[:8])
	conn.Write(greeting[16:24])
	io.ReadFull(conn, hello[:16])
	conn.Write(greeting[24:])
	question := wire(1, string(absent))
	for n := int64(1); ; n++ {
		if _, err := io.ReadFull(conn, question); err != nil {
			return
		}
		if f.mute {
			return
		}
		time.Sleep(f.delay)
		answer := wire(last, 1)
		if f.refuse {
			answer = wire(failed, "Error", 0, "", "no", 0, 0)
		}
		if _, err := conn.Write(answer); err != nil || n == f.answers {
			return
		}
	}
}

func TestPoolBoundsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := &fakeDaemon{delay: time.Second}
		pool := nixproto.NewPool(daemon.dial, &nixproto.PoolOptions{MaxConns: 2})
		defer pool.Close()
		started := time.Now()
		errs := make(chan error)
		for range 6 {
			go func() {
				_, err := pool.IsValidPath(t.Context(), absent)
				errs <- err
			}()
		}
		for range 6 {
			require.NoError(t, <-errs)
		}
		require.Equal(t, 3*time.Second, time.Since(started))
		require.EqualValues(t, 2, daemon.dialled.Load())
	})
}

func TestPoolWaitEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := &fakeDaemon{delay: time.Minute}
		pool := nixproto.NewPool(daemon.dial, &nixproto.PoolOptions{MaxConns: 1})
		defer pool.Close()
		go pool.IsValidPath(t.Context(), absent)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := pool.IsValidPath(ctx, absent)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Minute)
	})
}

func TestPoolReplacesGoneConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := &fakeDaemon{answers: 1}
		pool := nixproto.NewPool(daemon.dial, nil)
		defer pool.Close()
		for n := range 3 {
			valid, err := pool.IsValidPath(t.Context(), absent)
			require.NoError(t, err, "query %d", n)
			require.True(t, valid)
		}
		require.EqualValues(t, 3, daemon.dialled.Load())
	})
}

// Only a connection that may have gone while it was unused is replaced.
func TestPoolDoesNotRetryOnNewConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := &fakeDaemon{mute: true}
		pool := nixproto.NewPool(daemon.dial, nil)
		defer pool.Close()
		_, err := pool.IsValidPath(t.Context(), absent)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.EqualValues(t, 1, daemon.dialled.Load())
	})
}

func TestPoolDropsConnectionAfterRemoteError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := &fakeDaemon{refuse: true}
		pool := nixproto.NewPool(daemon.dial, nil)
		defer pool.Close()
		for range 2 {
			_, err := pool.IsValidPath(t.Context(), absent)
			_, remote := errors.AsType[*nixproto.RemoteError](err)
			require.True(t, remote, "%v", err)
			synctest.Wait()
			require.Zero(t, daemon.open.Load())
		}
		require.EqualValues(t, 2, daemon.dialled.Load(), "an error is not asked again")
	})
}

func TestPoolClosesIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := new(fakeDaemon)
		pool := nixproto.NewPool(daemon.dial, &nixproto.PoolOptions{IdleTimeout: time.Minute})
		defer pool.Close()
		_, err := pool.IsValidPath(t.Context(), absent)
		require.NoError(t, err)
		time.Sleep(time.Minute - 1)
		synctest.Wait()
		require.EqualValues(t, 1, daemon.open.Load())
		time.Sleep(1)
		synctest.Wait()
		require.Zero(t, daemon.open.Load())
	})
}

func TestPoolClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		daemon := &fakeDaemon{delay: time.Second}
		pool := nixproto.NewPool(daemon.dial, nil)
		_, err := pool.IsValidPath(t.Context(), absent)
		require.NoError(t, err)
		inUse := make(chan error)
		go func() {
			_, err := pool.IsValidPath(t.Context(), absent)
			inUse <- err
		}()
		synctest.Wait()
		require.NoError(t, pool.Close())
		require.NoError(t, <-inUse)
		synctest.Wait()
		require.Zero(t, daemon.open.Load())
		_, err = pool.IsValidPath(t.Context(), absent)
		require.ErrorIs(t, err, nixproto.ErrClosed)
	})
}
