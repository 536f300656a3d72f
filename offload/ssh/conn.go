package ssh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

// conn is a connection and what runs on it.
type conn struct {
	pool  *Pool
	link  *link
	mux   xssh.Conn
	done  chan struct{} // closed when it has ended
	began time.Time

	// Guarded by the pool's mutex.
	opening, open int       // sessions: asked for, and running
	served        bool      // a session was started on it
	most          int       // sessions that ran on it at once
	proved        bool      // a command ended on it
	retired       bool      // no more sessions
	idleSince     time.Time // zero while it has sessions
}

// start runs what a new connection needs until it ends.
func (c *conn) start(chans <-chan xssh.NewChannel, reqs <-chan *xssh.Request) {
	c.pool.running.Go(func() { xssh.DiscardRequests(reqs) })
	c.pool.running.Go(func() {
		for ch := range chans {
			_ = ch.Reject(xssh.Prohibited, "a builder opens nothing here") // then the connection ends, which is seen elsewhere
		}
	})
	c.pool.running.Go(c.watch)
	c.pool.running.Go(func() {
		err := c.mux.Wait()
		c.link.end(err)
		close(c.done)
		c.pool.ended(c)
	})
}

// watch asks an idle builder whether it is there, and ends the connection when it does not say so, or when nobody
// needed it for long.
func (c *conn) watch() {
	every := c.pool.opts.Silence / 5
	tick := time.NewTicker(every)
	defer tick.Stop()
	var asks sync.WaitGroup
	defer asks.Wait()
	asking := make(chan struct{}, 1) // full while an answer is awaited
	for {
		select {
		case <-c.done:
			return
		case <-tick.C:
		}
		if c.pool.idled(c) {
			c.link.end(ErrClosed)
			return
		}
		silent := c.link.silent()
		if silent >= c.pool.opts.Silence-every { // at the next tick it may be longer than Silence
			c.link.end(errSilent)
			return
		}
		if silent < every {
			continue
		}
		select {
		case asking <- struct{}{}:
			asks.Go(func() {
				// Any answer will do, and none comes from a connection that has ended.
				_, _, _ = c.mux.SendRequest("keepalive@openssh.com", true, nil)
				<-asking
			})
		default:
		}
	}
}

// lost is what the sessions of a connection that has ended are told; nil while it is up.
func (c *conn) lost() error {
	why := c.link.why()
	if why == nil {
		return nil
	}
	if errors.Is(why, ErrClosed) {
		return ErrClosed
	}
	e := &Error{Kind: Lost, Host: c.pool.host.Name, Status: -1, cause: why}
	addr := c.pool.host.addr()
	switch {
	case errors.Is(why, errSilent):
		e.Reason = fmt.Sprintf("the connection to %s is dead: nothing came for %s, and no answer to a keepalive", addr, c.pool.opts.Silence)
	case errors.Is(why, errStuck):
		e.Reason = fmt.Sprintf("the connection to %s is dead: what was sent made no progress for %s", addr, c.pool.opts.Silence)
	case closedByPeer(why):
		e.Reason = "the builder closed the connection to " + addr
	default:
		e.Reason = fmt.Sprintf("the connection to %s was cut: %v", addr, why)
	}
	return e
}

// errRefused says that sshd has no room for a session.
var errRefused = errors.New("ssh: session refused")

// opened is a channel on which the command runs, or why there is none.
type opened struct {
	ch   xssh.Channel
	reqs <-chan *xssh.Request
	err  error
}

// exec opens a channel and starts the command on it. When ctx ends first, the channel is closed as soon as it is
// there. Unless it succeeds, it gives back what the caller reserved.
func (c *conn) exec(ctx context.Context, command string) (xssh.Channel, <-chan *xssh.Request, error) {
	result, unwanted := make(chan opened), make(chan struct{})
	c.pool.running.Go(func() {
		o := c.openChannel(command)
		select {
		case result <- o:
		case <-unwanted:
			if o.err == nil {
				c.discard(o.ch, o.reqs)
			}
		}
	})
	select {
	case o := <-result:
		return o.ch, o.reqs, o.err
	case <-ctx.Done():
		close(unwanted)
		return nil, nil, context.Cause(ctx)
	}
}

func (c *conn) openChannel(command string) opened {
	ch, reqs, err := c.mux.OpenChannel("session", nil)
	refusal := new(xssh.OpenChannelError)
	refused := errors.As(err, &refusal)
	if err != nil {
		c.pool.release(c, refused)
	}
	if refused {
		return opened{err: errRefused}
	}
	if err != nil {
		return opened{err: c.broken(err)}
	}
	c.pool.begun(c)
	ok, err := ch.SendRequest("exec", true, xssh.Marshal(struct{ Command string }{command}))
	if err == nil && ok {
		return opened{ch: ch, reqs: reqs}
	}
	c.pool.running.Go(func() { c.discard(ch, reqs) })
	if err != nil {
		return opened{err: c.broken(err)}
	}
	return opened{err: &Error{
		Kind: Exited, Host: c.pool.host.Name, Status: -1, Reason: fmt.Sprintf("sshd does not run the command %q", command),
	}}
}

// discard ends a session that nobody wants.
func (c *conn) discard(ch xssh.Channel, reqs <-chan *xssh.Request) {
	newSession(c, ch, nil).discard(reqs)
}

// broken is why a connection does not do what it is asked.
func (c *conn) broken(err error) error {
	if lost := c.lost(); lost != nil {
		return lost
	}
	return &Error{Kind: Lost, Host: c.pool.host.Name, Status: -1, Reason: "the connection broke: " + err.Error(), cause: err}
}
