package ssh_test

import (
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/buildertest"
	"github.com/voidnxlab/nixtrap/offload/ssh"
)

// tries opens n sessions at a time, all of which fail, and returns the last error.
func tries(t *testing.T, p *ssh.Pool, n int) error {
	t.Helper()
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		last error
	)
	for range n {
		all.Go(func() {
			_, err := p.Open(t.Context(), "true", nil)
			mu.Lock()
			defer mu.Unlock()
			last = err
			if err == nil {
				t.Error("it opened")
			}
		})
	}
	all.Wait()
	return last
}

func TestADeadBuilderCostsOneTimeoutOnce(t *testing.T) {
	b := buildertest.Start(t, nil)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	for name, test := range map[string]struct {
		kill  func(t *testing.T, h *ssh.Host)
		kind  ssh.Kind
		takes time.Duration // at least
	}{
		"nothing listens": {func(t *testing.T, h *ssh.Host) {
			link := buildertest.Relay(t, b)
			*h = *host(t, b, link)
			link.Refuse()
		}, ssh.Refused, 0},
		"packets get lost": {func(t *testing.T, h *ssh.Host) {
			b.Unplug(t)
			t.Cleanup(func() { b.Plug(t) })
		}, ssh.Unreachable, 500 * time.Millisecond},
		"accepts and says nothing": {func(t *testing.T, h *ssh.Host) {
			h.Address, h.Port = "127.0.0.1", silent.Addr().(*net.TCPAddr).Port
		}, ssh.Unreachable, 500 * time.Millisecond},
		"closes at once": {func(t *testing.T, h *ssh.Host) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					c.Close()
				}
			}()
			h.Address, h.Port = "127.0.0.1", l.Addr().(*net.TCPAddr).Port
		}, ssh.Refused, 0},
		"speaks something else": {func(t *testing.T, h *ssh.Host) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = c.Write([]byte("SSH-2.0-echo\r\nwhat was that again?\r\n"))
					defer c.Close()
				}
			}()
			h.Address, h.Port = "127.0.0.1", l.Addr().(*net.TCPAddr).Port
		}, ssh.NotSSH, 0},
		"has no address": {func(t *testing.T, h *ssh.Host) {
			h.Address = "builder.invalid"
		}, ssh.Unreachable, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := host(t, b, nil)
			test.kill(t, h)
			o := fast()
			o.Handshake = 500 * time.Millisecond
			p := open(t, h, o)
			start := time.Now()
			err := tries(t, p, 50)
			first := time.Since(start)
			t.Log(err)
			fails(t, err, test.kind)
			require.GreaterOrEqual(t, first, test.takes)
			require.Less(t, first, test.takes+time.Second)
			start = time.Now()
			e := fails(t, tries(t, p, 50), test.kind)
			require.Less(t, time.Since(start), 200*time.Millisecond, "later ones wait for nothing")
			require.False(t, e.RetryAt.IsZero())
			s := p.Status()
			require.Equal(t, int64(1), s.Counts.ConnectFailures, "one attempt for a hundred builds")
			require.Equal(t, ssh.Suspended, s.State)
			require.Equal(t, test.kind, s.LastError.Kind)
			require.Equal(t, 1, s.Failures)
		})
	}
}

func TestABuilderThatComesBackIsFound(t *testing.T) {
	b := buildertest.Start(t, nil)
	link := buildertest.Relay(t, b)
	link.Refuse()
	var (
		mu     sync.Mutex
		states []ssh.State
	)
	o := fast()
	o.MinBackoff, o.MaxBackoff = 50*time.Millisecond, 200*time.Millisecond
	o.Trace.State = func(s ssh.State) {
		mu.Lock()
		defer mu.Unlock()
		states = append(states, s)
	}
	p := open(t, host(t, b, link), o)
	fails(t, tries(t, p, 1), ssh.Refused)
	buildertest.Await(t, "it tries again by itself", func() bool { return p.Status().Counts.ConnectFailures >= 3 })
	require.NoError(t, link.Accept())
	buildertest.Await(t, "the breaker closes", func() bool { return p.Status().State == ssh.Ready })
	require.Positive(t, p.Status().Failures, "a connection alone is no proof")
	_, _, err := run(t, p, "true", "")
	require.NoError(t, err)
	require.Zero(t, p.Status().Failures)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, []ssh.State{ssh.Suspended, ssh.Probing, ssh.Suspended, ssh.Probing}, states[:4])
	require.Equal(t, ssh.Ready, states[len(states)-1])
}

func TestALinkThatIsCutMidUpload(t *testing.T) {
	b := buildertest.Start(t, nil)
	link := buildertest.Relay(t, b)
	p := open(t, host(t, b, link), fast())
	s, err := p.Open(t.Context(), "cat >/dev/null", nil)
	require.NoError(t, err)
	other, err := p.Open(t.Context(), "cat", nil)
	require.NoError(t, err)
	link.CutAfter(4 << 20)
	start := time.Now()
	for err == nil {
		_, err = s.Write(make([]byte, 1<<20))
	}
	require.Less(t, time.Since(start), 5*time.Second)
	fails(t, err, ssh.Lost)
	require.Equal(t, err.Error(), fails(t, s.Wait(), ssh.Lost).Error())
	_, err = other.Read(make([]byte, 1))
	require.Equal(t, err.Error(), fails(t, other.Wait(), ssh.Lost).Error(), "every session is told the same")
	buildertest.Await(t, "it is counted", func() bool { return p.Status().Counts.Losses == 1 })
}

func TestACutLinkThatHadServedIsTriedAgainAtOnce(t *testing.T) {
	b := buildertest.Start(t, nil)
	link := buildertest.Relay(t, b)
	p := open(t, host(t, b, link), fast())
	_, _, err := run(t, p, "true", "")
	require.NoError(t, err)
	link.Cut()
	buildertest.Await(t, "the loss is seen", func() bool { return p.Status().Connections == 0 })
	require.Equal(t, ssh.Ready, p.Status().State)
	_, _, err = run(t, p, "true", "")
	require.NoError(t, err)
	b.StopSSHD(t)
	buildertest.Await(t, "so is the builder's end", func() bool { return p.Status().Connections == 0 })
	b.StartSSHD(t)
	_, _, err = run(t, p, "true", "")
	require.NoError(t, err)
}

func TestAHalfOpenConnectionIsNoticed(t *testing.T) {
	b := buildertest.Start(t, nil)
	for name, half := range map[string]func(t *testing.T) (*ssh.Host, func()){
		"stalled link": func(t *testing.T) (*ssh.Host, func()) {
			link := buildertest.Relay(t, b)
			return host(t, b, link), link.Stall
		},
		"lost packets": func(t *testing.T) (*ssh.Host, func()) {
			t.Cleanup(func() { b.Plug(t) })
			return host(t, b, nil), func() { b.Unplug(t) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, cut := half(t)
			p := open(t, h, fast())
			waits, err := p.Open(t.Context(), "cat", nil)
			require.NoError(t, err)
			uploads, err := p.Open(t.Context(), "cat >/dev/null", nil)
			require.NoError(t, err)
			time.Sleep(1500 * time.Millisecond) // longer than Silence: keepalives are answered
			require.Equal(t, 2, p.Status().Sessions)
			cut()
			start := time.Now()
			uploaded := make(chan error, 1)
			go func() {
				var err error
				for err == nil {
					_, err = uploads.Write(make([]byte, 1<<20))
				}
				uploaded <- err
			}()
			_, err = waits.Read(make([]byte, 1))
			took := time.Since(start)
			require.Less(t, took, 1400*time.Millisecond)
			t.Logf("noticed after %s: %v", took.Round(time.Millisecond), err)
			e := fails(t, err, ssh.Lost)
			require.Equal(t, e.Error(), fails(t, <-uploaded, ssh.Lost).Error())
			require.Equal(t, e.Error(), fails(t, uploads.Wait(), ssh.Lost).Error())
			buildertest.Await(t, "the breaker opens", func() bool { return p.Status().State == ssh.Suspended })
			start = time.Now()
			fails(t, tries(t, p, 10), ssh.Lost)
			require.Less(t, time.Since(start), 200*time.Millisecond)
		})
	}
}

func TestASlowLinkIsNotADeadOne(t *testing.T) {
	b := buildertest.Start(t, nil)
	link := buildertest.Relay(t, b)
	p := open(t, host(t, b, link), fast())
	s, err := p.Open(t.Context(), "cat >/dev/null", nil)
	require.NoError(t, err)
	link.Shape(slow, slow)
	for range 8 {
		_, err = s.Write(make([]byte, 256<<10))
		require.NoError(t, err)
	}
	require.NoError(t, s.CloseWrite())
	require.NoError(t, s.Wait())
}
