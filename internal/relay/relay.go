// Package relay is a TCP link whose faults a test sets while it runs: delay, bandwidth, cuts, silence.
// The kernel need not have netem for it.
//
// [Listen] opens one before a server. A client connects to [Relay.Addr]; what it sends is "up", what the server sends
// is "down". Delay and bandwidth are the link's own, shared by all its connections.
package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Shape is what a direction of the link is like. The zero Shape adds nothing.
type Shape struct {
	// Delay is how much later a byte arrives, one way.
	Delay time.Duration
	// Rate is the most bytes a second of all connections together; 0 is no limit.
	Rate int64
}

// Stats counts what went over the link since it was opened.
type Stats struct {
	// Accepted is the number of connections that clients made, Open those of them that are not closed.
	Accepted, Open int
	// Up and Down are bytes that were handed on.
	Up, Down int64
}

// Relay is a link. Its methods are safe for concurrent use.
type Relay struct {
	target   string
	addr     string
	up, down lane
	running  sync.WaitGroup

	mu       sync.Mutex // guards what follows
	listener net.Listener
	conns    map[*pair]struct{}
	accepted int
	closed   bool
	stalled  chan struct{} // not nil while nothing is forwarded; closed when it is again
}

// Listen opens a link at a TCP address (":0" chooses a port) before the server at target, which need not be there:
// then clients' connections are accepted and closed. It must be closed.
func Listen(address, target string) (*Relay, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	r := &Relay{target: target, addr: l.Addr().String(), conns: make(map[*pair]struct{})}
	r.serve(l)
	return r, nil
}

// Addr is where clients connect, as "host:port".
func (r *Relay) Addr() string { return r.addr }

// Shape sets both directions, for what is read from now on.
func (r *Relay) Shape(up, down Shape) {
	r.up.set(up)
	r.down.set(down)
}

// Stats returns the counts of now.
func (r *Relay) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Stats{Accepted: r.accepted, Open: len(r.conns), Up: r.up.bytes(), Down: r.down.bytes()}
}

// Cut resets every connection. New ones are accepted.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.conns {
		p.reset()
	}
}

// CutAfter resets every connection as soon as n more bytes went up.
func (r *Relay) CutAfter(n int64) {
	r.up.after(n, r.Cut)
}

// Stall makes the link half-open: connections stay and new ones are accepted, but nothing is forwarded until Resume.
func (r *Relay) Stall() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stalled == nil {
		r.stalled = make(chan struct{})
	}
}

// Resume ends a stall. What was sent meanwhile arrives.
func (r *Relay) Resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resume()
}

func (r *Relay) resume() {
	if r.stalled != nil {
		close(r.stalled)
		r.stalled = nil
	}
}

// Refuse closes the port, so that new connections are refused, until Accept. Those that are open stay.
func (r *Relay) Refuse() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil {
		r.listener.Close()
		r.listener = nil
	}
}

// Accept opens the port again after Refuse.
func (r *Relay) Accept() error {
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		return err
	}
	r.serve(l)
	return nil
}

// Close cuts every connection, closes the port and waits until nothing of the link runs. Its error is nil.
func (r *Relay) Close() error {
	r.Refuse()
	r.mu.Lock()
	r.closed = true
	r.resume()
	for p := range r.conns {
		p.reset()
	}
	r.mu.Unlock()
	r.running.Wait()
	return nil
}

func (r *Relay) serve(l net.Listener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listener = l
	r.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.forward(c.(*net.TCPConn)) })
		}
	})
}

// forward carries one client's connection to its end.
func (r *Relay) forward(client *net.TCPConn) {
	p := &pair{client: client, done: make(chan struct{})}
	if !r.add(p) {
		client.Close()
		return
	}
	defer r.remove(p)
	if !r.pass(p) {
		return
	}
	dialled, err := net.DialTimeout("tcp", r.target, 10*time.Second)
	if err != nil {
		return
	}
	server := dialled.(*net.TCPConn)
	if !p.join(server) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { r.copy(p, server, client, &r.up) })
	both.Go(func() { r.copy(p, client, server, &r.down) })
	both.Wait()
}

func (r *Relay) add(p *pair) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.accepted++
	r.conns[p] = struct{}{}
	return true
}

func (r *Relay) remove(p *pair) {
	p.close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, p)
}

// pass waits while the link is stalled, and tells whether the connection is still there.
func (r *Relay) pass(p *pair) bool {
	for {
		r.mu.Lock()
		stalled := r.stalled
		r.mu.Unlock()
		if stalled == nil {
			return true
		}
		select {
		case <-stalled:
		case <-p.done:
			return false
		}
	}
}

// A chunk is bytes that are on the way.
type chunk struct {
	bytes []byte
	due   time.Time // when they arrive
}

// copy hands on one direction of a connection: a reader that notes when each chunk is due, and this writer.
func (r *Relay) copy(p *pair, to, from *net.TCPConn, l *lane) {
	const size = 64 << 10
	way := make(chan chunk, 256) // 16 MiB: more than TCP itself has under way
	p.goes.Go(func() {
		defer close(way)
		for {
			buf := make([]byte, size)
			n, err := from.Read(buf)
			if n > 0 {
				sent, due := l.admit(n)
				// A router's buffer holds a tenth of a second of what waits for the rate.
				if !p.until(sent.Add(-100 * time.Millisecond)) {
					return
				}
				select {
				case way <- chunk{buf[:n], due}:
				case <-p.done:
					return
				}
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				p.reset()
				return
			}
		}
	})
	for c := range way {
		if !p.until(c.due) || !r.pass(p) {
			return
		}
		if _, err := to.Write(c.bytes); err != nil {
			p.reset()
			return
		}
		l.count(len(c.bytes))
	}
	if p.until(l.end()) && r.pass(p) {
		_ = to.CloseWrite() // the other end may be gone already
	}
}
