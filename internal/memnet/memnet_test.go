package memnet_test

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/memnet"
)

func TestConnectionCarriesBytes(t *testing.T) {
	l := memnet.Listen()
	defer func() { require.NoError(t, l.Close()) }()
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	c, err := l.DialContext(t.Context(), "tcp", "anywhere:1")
	require.NoError(t, err)
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
}

func TestDialWaitsForAcceptUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := memnet.Listen()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		_, err := l.DialContext(ctx, "tcp", "anywhere:1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))
	})
}

func TestClosedListenerRefuses(t *testing.T) {
	l := memnet.Listen()
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	_, err := l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = l.DialContext(t.Context(), "tcp", "anywhere:1")
	require.ErrorIs(t, err, net.ErrClosed)
}
