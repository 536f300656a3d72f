package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/internal/pause"
)

// limitHolds is for how long the number of sessions that sshd allows is believed.
const limitHolds = time.Minute

// Pool is the way to one builder. Its methods are safe for concurrent use. It must be closed.
type Pool struct {
	host    Host
	opts    Options
	running sync.WaitGroup
	closing chan struct{} // closed by Close

	mu        sync.Mutex // guards what follows, and what conns say that it does
	closed    bool
	conns     []*conn
	attempt   *attempt      // to connect; nil if none is under way
	changed   chan struct{} // closed and made anew when an Open that waits should look again
	breaker   breaker
	limit     int // sessions on a connection, as learned; 0: not known
	limitedAt time.Time
	waiting   int
	counts    Counts
}

// attempt is one to connect, that any number of Opens wait for.
type attempt struct {
	done chan struct{}
	err  error // set when done is closed
}

// Counts are what a pool has done since it was made.
type Counts struct {
	// Connects and ConnectFailures are attempts to connect that succeeded and failed.
	Connects, ConnectFailures int64
	// Losses are connections that ended without our doing.
	Losses int64
	// Sessions are commands that were started, Refusals sessions that sshd had no room for.
	Sessions, Refusals int64
}

// Status is what a pool knows of its builder.
type Status struct {
	// State is the breaker's.
	State State
	// LastError is why the breaker opened last, nil if it never did. It stays when the breaker closes again.
	LastError *Error
	// Failures are attempts and connections that failed in a row.
	Failures int
	// RetryAt is when the next attempt to connect is made, in state Suspended.
	RetryAt time.Time
	// Connections are up, Sessions run on them or are being opened, Waiting Opens wait for a connection or for room.
	Connections, Sessions, Waiting int
	// SessionLimit is the number of sessions that sshd allows on a connection, 0 if it never refused one of late.
	SessionLimit int
	// Counts are totals.
	Counts Counts
}

// NewPool returns a pool for a builder, which it does not connect to yet. Both structs are copied.
func NewPool(host *Host, opts *Options) (*Pool, error) {
	o, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	h, err := host.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Pool{
		host: h, opts: o, closing: make(chan struct{}), changed: make(chan struct{}),
		breaker: breaker{min: o.MinBackoff, max: o.MaxBackoff, state: Ready},
	}, nil
}

// Host is the builder, with the defaults filled in.
func (p *Pool) Host() Host { return p.host }

// Open starts a command in a session of its own. ctx bounds the opening alone: connecting, waiting for room, sshd's
// answer. What the command writes to stderr goes to stderr, from one goroutine, or nowhere if that is nil; a writer
// that blocks holds the command up. Its error is an *[Error], [ErrClosed], or wraps ctx's.
func (p *Pool) Open(ctx context.Context, command string, stderr io.Writer) (*Session, error) {
	start := time.Now()
	for refusals := 1; ; refusals++ {
		c, err := p.acquire(ctx)
		if err != nil {
			return nil, p.because(ctx, err)
		}
		s, err := p.open(ctx, c, command, stderr)
		if errors.Is(err, errRefused) {
			var later time.Duration
			if later, err = p.refused(c, refusals); err == nil {
				_ = pause.For(ctx, later) // acquire sees that ctx has ended
				continue
			}
		}
		if err != nil {
			return nil, p.because(ctx, err)
		}
		if p.opts.Trace.Opened != nil {
			p.opts.Trace.Opened(time.Since(start))
		}
		return s, nil
	}
}

// open starts the command on the connection that acquire returned.
func (p *Pool) open(ctx context.Context, c *conn, command string, stderr io.Writer) (*Session, error) {
	defer p.running.Done() // what acquire added
	ch, reqs, err := c.exec(ctx, command)
	if err != nil {
		return nil, err
	}
	s := newSession(c, ch, stderr)
	p.running.Go(func() { s.serve(reqs) })
	return s, nil
}

// because makes a context's error say what was waited for.
func (p *Pool) because(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("ssh: builder %q: opening a session: %w", p.host.Name, context.Cause(ctx))
	}
	return err
}

// acquire waits for a connection with room for a session, which it reserves.
func (p *Pool) acquire(ctx context.Context) (*conn, error) {
	p.mu.Lock()
	p.waiting++
	defer func() {
		p.waiting--
		p.mu.Unlock()
	}()
	for {
		if p.closed {
			return nil, ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if c := p.room(); c != nil {
			c.opening++
			c.idleSince = time.Time{}
			p.running.Add(1) // here, where Close has not begun to wait
			return c, nil
		}
		if p.breaker.state != Ready && len(p.conns) == 0 {
			return nil, p.breaker.last.suspended(p.breaker.until)
		}
		if p.attempt == nil && p.breaker.state == Ready && len(p.conns) < p.opts.MaxConnections {
			p.connect()
		}
		a, changed := p.attempt, p.changed
		p.mu.Unlock()
		err := wait(ctx, a, changed)
		p.mu.Lock()
		if err != nil && len(p.conns) == 0 {
			return nil, err
		}
	}
}

// wait returns when the pool has changed or an attempt has ended, with that one's error.
func wait(ctx context.Context, a *attempt, changed <-chan struct{}) error {
	var done chan struct{}
	if a != nil {
		done = a.done
	}
	select {
	case <-done:
		return a.err
	case <-changed:
	case <-ctx.Done():
	}
	return nil
}

// room picks the connection with the fewest sessions that may have one more.
func (p *Pool) room() *conn {
	if p.limit > 0 && time.Since(p.limitedAt) > limitHolds {
		p.limit = 0
	}
	var best *conn
	for _, c := range p.conns {
		n := c.opening + c.open
		if c.retired || p.limit > 0 && n >= p.limit || c.link.why() != nil {
			continue
		}
		if best == nil || n < best.opening+best.open {
			best = c
		}
	}
	return best
}

// connect starts an attempt. The pool's own time bounds it, not that of who asked first: others wait for it too.
func (p *Pool) connect() {
	a := &attempt{done: make(chan struct{})}
	p.attempt = a
	p.running.Go(func() {
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		over := make(chan struct{})
		defer close(over)
		p.running.Go(func() {
			select {
			case <-p.closing:
				cancel(ErrClosed)
			case <-over:
			}
		})
		start := time.Now()
		l, mux, chans, reqs, err := connect(ctx, p.host, &p.opts)
		if err != nil {
			p.failed(a, err, time.Since(start))
			return
		}
		c := &conn{pool: p, link: l, mux: mux, done: make(chan struct{}), began: time.Now(), idleSince: time.Now()}
		p.connected(a, c, time.Since(start))
		c.start(chans, reqs)
	})
}

func (p *Pool) connected(a *attempt, c *conn, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempt = nil
	p.counts.Connects++
	p.conns = append(p.conns, c)
	if p.closed {
		c.link.end(ErrClosed)
	}
	was := p.breaker.state
	p.breaker.connected()
	p.traceState(was)
	if p.opts.Trace.Connected != nil {
		p.opts.Trace.Connected(d)
	}
	close(a.done)
	p.notify()
}

func (p *Pool) failed(a *attempt, err error, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempt = nil
	a.err = err
	if e := new(Error); errors.As(err, &e) && !p.closed {
		p.counts.ConnectFailures++
		if p.opts.Trace.ConnectFailed != nil {
			p.opts.Trace.ConnectFailed(e, d)
		}
		p.suspend(e)
	}
	close(a.done)
	p.notify()
}

// suspend opens the breaker and sees to the next attempt.
func (p *Pool) suspend(err *Error) {
	was := p.breaker.state
	wait := p.breaker.fail(err)
	p.traceState(was)
	if p.closed {
		return
	}
	p.running.Go(func() {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.closing:
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.closed || p.attempt != nil || p.breaker.state != Suspended || time.Now().Before(p.breaker.until) {
			return
		}
		p.breaker.state = Probing
		p.traceState(Suspended)
		p.connect()
	})
}

func (p *Pool) traceState(was State) {
	if p.opts.Trace.State != nil && p.breaker.state != was {
		p.opts.Trace.State(p.breaker.state)
	}
}

// notify wakes the Opens that wait.
func (p *Pool) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// begun turns a reservation into a session.
func (p *Pool) begun(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.opening--
	c.open++
	c.served, c.most = true, max(c.most, c.open)
	p.counts.Sessions++
	if p.limit > 0 && c.open > p.limit {
		p.limit = c.open
	}
}

// release gives a reservation back.
func (p *Pool) release(c *conn, refused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.opening--
	p.vacated(c)
	if refused {
		p.counts.Refusals++
		if p.opts.Trace.SessionRefused != nil {
			p.opts.Trace.SessionRefused()
		}
	}
	p.notify()
}

// refused learns from a session's nth refusal, and returns how long it should wait before it is asked for again. It is
// an error if sshd has no room for a connection's only session.
func (p *Pool) refused(c *conn, n int) (later time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case c.most > c.open && c.open > 0 && n <= 7:
		// There was room for more before: sshd counts a session until it has noticed its command's end, for which a busy
		// machine takes its time.
		return 10 * time.Millisecond << (n - 1), nil
	case c.open > 0 || c.opening > 0:
		p.limit, p.limitedAt = max(c.open, 1), time.Now()
	case c.served:
		// Commands whose sessions were closed still run there. A new connection has room of its own.
		p.retire(c)
	default:
		return 0, &Error{
			Kind: SessionLimit, Host: p.host.Name, Status: -1, Reason: p.host.addr() + " refuses every session",
			Hint: "is MaxSessions 0 in its sshd_config?",
		}
	}
	return 0, nil
}

// retire takes a connection from use; it is closed when its last session ends.
func (p *Pool) retire(c *conn) {
	c.retired = true
	if c.open+c.opening == 0 {
		c.link.end(ErrClosed)
	}
	p.conns = slices.DeleteFunc(p.conns, func(x *conn) bool { return x == c })
	p.notify()
}

// vacated notes that a connection may have no session any more.
func (p *Pool) vacated(c *conn) {
	if c.open+c.opening > 0 {
		return
	}
	c.idleSince = time.Now()
	if c.retired {
		c.link.end(ErrClosed)
	}
}

// linger gives up a session that was closed and whose command does not end: sshd goes on to count it. Another
// connection has room for the next one.
func (p *Pool) linger(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.open--
	p.retire(c)
}

// left ends a session. exited tells that its command ended by itself.
func (p *Pool) left(c *conn, exited bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.open--
	if exited {
		c.proved = true
		p.breaker.proved()
	}
	p.vacated(c)
	p.notify()
}

// idled tells whether a connection was without sessions for too long, and takes it from use.
func (p *Pool) idled(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.idleSince.IsZero() || time.Since(c.idleSince) < p.opts.Idle {
		return false
	}
	c.retired = true
	return true
}

// ended takes a connection that has ended out of the pool.
func (p *Pool) ended(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = slices.DeleteFunc(p.conns, func(x *conn) bool { return x == c })
	err := c.lost()
	var lost *Error
	if errors.As(err, &lost) {
		p.counts.Losses++
		silent := errors.Is(lost.cause, errSilent) || errors.Is(lost.cause, errStuck)
		short := !c.proved && time.Since(c.began) < p.opts.MaxBackoff
		if (silent || short) && p.breaker.state == Ready && p.attempt == nil {
			p.suspend(lost)
		}
	}
	if p.opts.Trace.Disconnected != nil {
		p.opts.Trace.Disconnected(lost)
	}
	p.notify()
}

// Status returns what is known now, without asking the builder.
func (p *Pool) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{
		State: p.breaker.state, LastError: p.breaker.last, Failures: p.breaker.failures, RetryAt: p.breaker.until,
		Connections: len(p.conns), Waiting: p.waiting, SessionLimit: p.limit, Counts: p.counts,
	}
	for _, c := range p.conns {
		s.Sessions += c.open + c.opening
	}
	return s
}

// Retry closes the breaker, so that the next Open connects at once: for an operator who mended something.
func (p *Pool) Retry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.breaker.state != Suspended {
		return
	}
	p.breaker.connected()
	p.breaker.proved()
	p.traceState(Suspended)
	p.notify()
}

// Close ends every session with [ErrClosed] and returns when nothing of the pool runs. Its error is nil. A second
// Close does nothing.
func (p *Pool) Close() error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.closing)
		p.notify()
	}
	conns := slices.Clone(p.conns)
	p.mu.Unlock()
	for _, c := range conns {
		c.link.end(ErrClosed)
	}
	p.running.Wait()
	return nil
}
