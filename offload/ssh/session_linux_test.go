package ssh_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/voidnxlab/nixtrap/internal/buildertest"
	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/internal/relay"
	"github.com/voidnxlab/nixtrap/offload/ssh"
)

func TestHowACommandEnds(t *testing.T) {
	b := buildertest.Start(t, nil)
	p := open(t, host(t, b, nil), fast())
	for name, test := range map[string]struct {
		command string
		kind    ssh.Kind
		status  int
		signal  string
		says    string
	}{
		"well":      {command: "cat; echo talk >&2"},
		"status":    {"cat; echo talk >&2; exit 3", ssh.Exited, 3, "", "exit status 3"},
		"not found": {"cat; echo talk >&2; no-such-command", ssh.CommandNotFound, 127, "", "no such command"},
		"signal":    {"cat; echo talk >&2; kill -TERM $$", ssh.Exited, -1, "TERM", "signal TERM"},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, err := run(t, p, test.command, "in and out")
			require.Equal(t, "in and out", out)
			require.True(t, strings.HasPrefix(errs, "talk\n"), errs)
			if test.kind == "" {
				require.NoError(t, err)
				return
			}
			e := fails(t, err, test.kind)
			require.Equal(t, test.status, e.Status)
			require.Equal(t, test.signal, e.Signal)
			require.Contains(t, e.Error(), test.says)
			require.True(t, strings.HasPrefix(e.Stderr, "talk"), e.Stderr)
		})
	}
	require.Equal(t, int64(1), p.Status().Counts.Connects)
}

func TestAWriterLearnsHowTheCommandEnded(t *testing.T) {
	p := open(t, host(t, buildertest.Start(t, nil), nil), fast())
	s, err := p.Open(t.Context(), "echo no room >&2; exit 9", nil)
	require.NoError(t, err)
	for err == nil {
		_, err = s.Write(make([]byte, 64<<10))
	}
	require.Equal(t, "no room", fails(t, err, ssh.Exited).Stderr)
}

func TestTheEndOfALongStderrIsKept(t *testing.T) {
	p := open(t, host(t, buildertest.Start(t, nil), nil), fast())
	_, errs, err := run(t, p, "seq 100000 >&2; exit 1", "")
	e := fails(t, err, ssh.Exited)
	require.Len(t, strings.Fields(errs), 100000)
	require.True(t, strings.HasSuffix(e.Stderr, "\n99999\n100000"))
	require.LessOrEqual(t, len(e.Stderr), 4096)
}

// hello is the first exchange of the worker protocol.
func hello(t *testing.T, s *ssh.Session) {
	t.Helper()
	var magic [8]byte
	binary.LittleEndian.PutUint64(magic[:], 0x6e697863)
	_, err := s.Write(magic[:])
	require.NoError(t, err)
	_, err = io.ReadFull(s, magic[:])
	require.NoError(t, err)
	require.Equal(t, uint64(0x6478696f), binary.LittleEndian.Uint64(magic[:]))
}

func TestEveryReleasesDaemonAnswers(t *testing.T) {
	for _, release := range realnix.Releases() {
		for _, user := range []string{"root", "maker"} {
			t.Run(release+" "+user, func(t *testing.T) {
				b := buildertest.Start(t, &buildertest.Options{Release: release, User: user})
				s, err := open(t, host(t, b, nil), fast()).Open(t.Context(), "nix-daemon --stdio", nil)
				require.NoError(t, err)
				hello(t, s)
				require.NoError(t, s.Close())
			})
		}
	}
}

// together opens n sessions at a time and returns how many ran at once on the builder, and the errors.
func together(t *testing.T, p *ssh.Pool, n int) int {
	t.Helper()
	var (
		all         sync.WaitGroup
		running, at atomic.Int64
	)
	for range n {
		all.Go(func() {
			s, err := p.Open(t.Context(), "cat", nil)
			if err != nil {
				t.Error(err)
				return
			}
			now := running.Add(1)
			for most := at.Load(); now > most && !at.CompareAndSwap(most, now); most = at.Load() {
			}
			_, err = s.Write([]byte("x"))
			require.NoError(t, err)
			_, err = io.ReadFull(s, make([]byte, 1))
			require.NoError(t, err)
			time.Sleep(300 * time.Millisecond) // the others come meanwhile
			running.Add(-1)
			require.NoError(t, s.CloseWrite())
			require.NoError(t, s.Wait())
		})
	}
	all.Wait()
	return int(at.Load())
}

func TestBuildsShareAConnectionUpToWhatSSHDAllows(t *testing.T) {
	b := buildertest.Start(t, nil) // MaxSessions 10
	p := open(t, host(t, b, nil), fast())
	require.LessOrEqual(t, together(t, p, 10), 10)
	require.Equal(t, int64(1), p.Status().Counts.Connects, "ten sessions fit on one connection")
	require.Zero(t, p.Status().Counts.Refusals)
	require.Greater(t, together(t, p, 25), 10)
	s := p.Status()
	require.Equal(t, 10, s.SessionLimit, "it was learned")
	require.LessOrEqual(t, s.Connections, 3)
	require.Positive(t, s.Counts.Refusals)
	refused := s.Counts.Refusals
	together(t, p, 25)
	require.Equal(t, refused, p.Status().Counts.Refusals, "what was learned is heeded")
	require.Equal(t, int64(60), p.Status().Counts.Sessions)
	require.Zero(t, p.Status().Sessions)
}

func TestOpensWaitForRoom(t *testing.T) {
	b := buildertest.Start(t, &buildertest.Options{SSHD: "MaxSessions 1"})
	o := fast()
	o.MaxConnections = 1
	p := open(t, host(t, b, nil), o)
	require.Equal(t, 1, together(t, p, 8))
	require.Equal(t, int64(8), p.Status().Counts.Sessions)
}

func TestOneSessionAConnectionIsNoError(t *testing.T) {
	b := buildertest.Start(t, &buildertest.Options{SSHD: "MaxSessions 1"})
	p := open(t, host(t, b, nil), fast())
	require.Greater(t, together(t, p, 12), 1)
	require.LessOrEqual(t, p.Status().Connections, 8)
}

func TestSSHDThatRefusesEverySession(t *testing.T) {
	b := buildertest.Start(t, &buildertest.Options{SSHD: "MaxSessions 0"})
	p := open(t, host(t, b, nil), fast())
	_, err := p.Open(t.Context(), "true", nil)
	require.Contains(t, fails(t, err, ssh.SessionLimit).Error(), "MaxSessions")
	require.Equal(t, ssh.Ready, p.Status().State)
}

func TestAClosedSessionMakesRoomThoughItsCommandRunsOn(t *testing.T) {
	b := buildertest.Start(t, &buildertest.Options{SSHD: "MaxSessions 1"})
	o := fast()
	o.MaxConnections = 1
	p := open(t, host(t, b, nil), o)
	for range 3 {
		s, err := p.Open(t.Context(), "echo x; exec sleep 1000 >/dev/null 2>&1 </dev/null", nil)
		require.NoError(t, err)
		_, err = io.ReadFull(s, make([]byte, 2))
		require.NoError(t, err)
		require.NoError(t, s.Close())
		_, err = io.ReadAll(s)
		require.ErrorIs(t, err, ssh.ErrClosed, "what was closed does not look whole")
		require.ErrorIs(t, s.Wait(), ssh.ErrClosed)
	}
}

func TestCloseEndsSessions(t *testing.T) {
	p := open(t, host(t, buildertest.Start(t, nil), nil), fast())
	s, err := p.Open(t.Context(), "cat", nil)
	require.NoError(t, err)
	require.NoError(t, p.Close())
	_, err = s.Read(make([]byte, 1))
	require.ErrorIs(t, err, ssh.ErrClosed)
	require.ErrorIs(t, s.Wait(), ssh.ErrClosed)
	_, err = p.Open(t.Context(), "cat", nil)
	require.ErrorIs(t, err, ssh.ErrClosed)
	require.NoError(t, p.Close())
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	b := buildertest.Start(t, nil)
	link := buildertest.Relay(t, b)
	o := fast()
	o.Idle = 300 * time.Millisecond
	p := open(t, host(t, b, link), o)
	_, _, err := run(t, p, "true", "")
	require.NoError(t, err)
	buildertest.Await(t, "the connection is closed", func() bool { return link.Stats().Open == 0 })
	require.Equal(t, ssh.Ready, p.Status().State)
	require.Zero(t, p.Status().Counts.Losses)
	_, _, err = run(t, p, "true", "")
	require.NoError(t, err)
	require.Equal(t, int64(2), p.Status().Counts.Connects)
}

// stops asserts that an Open ends soon after its context.
func stops(t *testing.T, p *ssh.Pool) {
	t.Helper()
	why := errors.New("the build is not wanted any more")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(why) })
	start := time.Now()
	_, err := p.Open(ctx, "cat", nil)
	require.ErrorIs(t, err, why)
	require.Less(t, time.Since(start), 400*time.Millisecond)
}

func TestOpenStopsAtEachStep(t *testing.T) {
	b := buildertest.Start(t, &buildertest.Options{SSHD: "MaxSessions 1"})
	o := fast()
	o.MaxConnections, o.Connect, o.Handshake, o.Silence = 1, 3*time.Second, 3*time.Second, 3*time.Second
	t.Run("connect", func(t *testing.T) {
		p := open(t, host(t, b, nil), o)
		b.Unplug(t)
		defer b.Plug(t)
		stops(t, p)
	})
	t.Run("handshake", func(t *testing.T) {
		link := buildertest.Relay(t, b)
		link.Stall()
		stops(t, open(t, host(t, b, link), o))
	})
	t.Run("room", func(t *testing.T) {
		p := open(t, host(t, b, nil), o)
		s, err := p.Open(t.Context(), "cat", nil)
		require.NoError(t, err)
		stops(t, p)
		require.Equal(t, 1, p.Status().Sessions)
		require.NoError(t, s.CloseWrite())
		require.NoError(t, s.Wait())
		_, _, err = run(t, p, "true", "")
		require.NoError(t, err)
	})
	t.Run("channel", func(t *testing.T) {
		link := buildertest.Relay(t, b)
		p := open(t, host(t, b, link), o)
		_, _, err := run(t, p, "true", "")
		require.NoError(t, err)
		link.Stall()
		stops(t, p)
		link.Resume()
		buildertest.Await(t, "the late channel is closed", func() bool { return p.Status().Sessions == 0 })
		_, _, err = run(t, p, "true", "")
		require.NoError(t, err)
	})
}

func TestIPv6(t *testing.T) {
	b := buildertest.Start(t, nil)
	link, err := relay.Listen("[::1]:0", b.Addr())
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	defer link.Close()
	h, o := host(t, b, link), fast()
	require.Equal(t, "::1", h.Address)
	h.HostKeys = nil
	o.KnownHosts = []string{file(t, "known_hosts", knownhosts.Line([]string{link.Addr()}, b.HostKey)+"\n")}
	_, _, err = run(t, open(t, h, o), "true", "")
	require.NoError(t, err)
}

func TestTraceIsToldWhatHappens(t *testing.T) {
	b := buildertest.Start(t, nil)
	link := buildertest.Relay(t, b)
	var (
		mu   sync.Mutex
		told []string
	)
	tell := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, what)
	}
	o := fast()
	o.Trace = ssh.Trace{
		Connected:     func(d time.Duration) { tell(fmt.Sprint("connected ", d > 0)) },
		ConnectFailed: func(err *ssh.Error, d time.Duration) { tell(fmt.Sprint("failed ", err.Kind)) },
		Disconnected: func(err *ssh.Error) {
			if err == nil {
				tell("closed")
				return
			}
			tell("disconnected " + string(err.Kind))
		},
		State:  func(s ssh.State) { tell("state " + string(s)) },
		Opened: func(d time.Duration) { tell(fmt.Sprint("opened ", d > 0)) },
		Ended:  func(sent, received int64, err error) { tell(fmt.Sprint("ended ", sent, " ", received, " ", err)) },
	}
	p := open(t, host(t, b, link), o)
	_, _, err := run(t, p, "wc -c", "four")
	require.NoError(t, err)
	link.Refuse()
	link.Cut()
	buildertest.Await(t, "the loss is seen", func() bool { return p.Status().Connections == 0 })
	fails(t, tries(t, p, 1), ssh.Refused)
	require.NoError(t, p.Close())
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []string{
		"connected true", "opened true", "ended 4 2 <nil>", "disconnected lost", "failed refused", "state suspended",
	}, told)
}
