package relay_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/relay"
)

// echo serves what it is sent, and returns its address.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func open(t *testing.T) (*relay.Relay, net.Conn) {
	t.Helper()
	r, err := relay.Listen("127.0.0.1:0", echo(t))
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	c, err := net.Dial("tcp", r.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return r, c
}

// bounce sends text and waits for it.
func bounce(t *testing.T, c net.Conn, text string) time.Duration {
	t.Helper()
	start := time.Now()
	_, err := io.WriteString(c, text)
	require.NoError(t, err)
	back := make([]byte, len(text))
	_, err = io.ReadFull(c, back)
	require.NoError(t, err)
	require.Equal(t, text, string(back))
	return time.Since(start)
}

func TestDelayIsAddedInEachDirection(t *testing.T) {
	r, c := open(t)
	require.Less(t, bounce(t, c, "warm"), 5*time.Second)
	r.Shape(relay.Shape{Delay: 70 * time.Millisecond}, relay.Shape{Delay: 50 * time.Millisecond})
	require.GreaterOrEqual(t, bounce(t, c, "slow"), 120*time.Millisecond)
}

func TestRateIsAMost(t *testing.T) {
	r, c := open(t)
	r.Shape(relay.Shape{Rate: 1 << 20}, relay.Shape{})
	start := time.Now()
	go func() { _, _ = c.Write(make([]byte, 512<<10)) }()
	_, err := io.ReadFull(c, make([]byte, 512<<10))
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(start), 400*time.Millisecond)
}

func TestEndOfStreamIsHandedOn(t *testing.T) {
	_, c := open(t)
	_, err := io.WriteString(c, "all")
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	back, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "all", string(back))
}

func TestCutResets(t *testing.T) {
	r, c := open(t)
	bounce(t, c, "here")
	require.Equal(t, relay.Stats{Accepted: 1, Open: 1, Up: 4, Down: 4}, r.Stats())
	r.CutAfter(3)
	_, err := io.WriteString(c, "gone")
	require.NoError(t, err)
	_, err = io.ReadAll(c)
	require.ErrorContains(t, err, "reset")
	again, err := net.Dial("tcp", r.Addr())
	require.NoError(t, err)
	defer again.Close()
	bounce(t, again, "back")
}

func TestAStalledLinkAcceptsAndSaysNothing(t *testing.T) {
	r, c := open(t)
	bounce(t, c, "here")
	r.Stall()
	late, err := net.Dial("tcp", r.Addr())
	require.NoError(t, err)
	defer late.Close()
	for _, conn := range []net.Conn{c, late} {
		_, err = io.WriteString(conn, "late")
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		_, err = conn.Read(make([]byte, 4))
		require.ErrorContains(t, err, "timeout")
	}
	r.Resume()
	for _, conn := range []net.Conn{c, late} {
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
		back := make([]byte, 4)
		_, err = io.ReadFull(conn, back)
		require.NoError(t, err)
		require.Equal(t, "late", string(back))
	}
}

func TestARefusingLinkRefuses(t *testing.T) {
	r, c := open(t)
	bounce(t, c, "here")
	r.Refuse()
	_, err := net.Dial("tcp", r.Addr())
	require.ErrorContains(t, err, "refused")
	bounce(t, c, "still")
	require.NoError(t, r.Accept())
	again, err := net.Dial("tcp", r.Addr())
	require.NoError(t, err)
	defer again.Close()
	bounce(t, again, "back")
}
