// Package plainhttp answers plain GET and HEAD requests of HTTP/1.1 at half the cost of net/http, and leaves everything
// else to it.
//
// A [Server] stands in front of a [net/http.Server]. A connection begins in a loop of this package, which reads requests
// into one buffer and calls the http.Server's own Handler. The first request that is in any way out of the ordinary
// (another method or version, a body, a header that does not arrive in one piece or is long, a line that is not as RFC
// 9112 has it, Expect, Upgrade, a Connection other than keep-alive or close) makes the connection net/http's, with the
// bytes read so far, for good: limits, errors and everything that is hard are answered there and nowhere else.
// TLS, and with it HTTP/2, does not come here at all.
//
// What is saved is a goroutine that waits for the client to leave, two wake-ups and three timers a request;
// docs/decisions has the figures.
//
// # What a handler notices
//
// Its Request has no body. Its context ends when the answer ends, and when the client leaves; that the latter is looked
// for only once somebody asks for the context's Done channel.
// Its ResponseWriter has the methods that [net/http.ResponseController] looks for (Flush and the deadlines),
// io.ReaderFrom, which lets the kernel copy files, and
// SetWriteStall(time.Duration), which cuts off a client that does not take 256 KiB within that time.
// A body of unknown length is sent chunked, and no Content-Type is guessed.
// A panic with http.ErrAbortHandler cuts the connection.
//
// Of the http.Server's settings Handler, ReadHeaderTimeout, ReadTimeout, IdleTimeout and ErrorLog are honoured here,
// and all of them once a connection is net/http's. WriteTimeout, BaseContext, ConnContext and ConnState are not.
package plainhttp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves listeners. Its zero value with HTTP set is ready; it must not be copied once used.
// It is safe for concurrent use.
type Server struct {
	// HTTP has the handler and gets the connections that are not for the loop. It may serve other listeners too.
	HTTP *http.Server

	dates  dateLine
	closed atomic.Bool // set under mu

	mu        sync.Mutex // guards all below
	conns     map[*conn]struct{}
	listeners map[*handover]struct{}
	changed   chan struct{} // closed when the last of conns goes; nil while nobody waits
}

// Serve answers what comes in on l until Shutdown or Close, and then returns [http.ErrServerClosed]. It closes l.
func (s *Server) Serve(l net.Listener) error {
	h := newHandover(l)
	if !s.track(h) {
		_ = l.Close()
		return http.ErrServerClosed
	}
	defer s.untrack(h)
	rest := make(chan error, 1)
	go func() { rest <- s.HTTP.Serve(h) }()
	err := s.accept(h)
	_ = h.Close()
	restErr := <-rest
	if errors.Is(err, net.ErrClosed) { // by HTTP's own Shutdown or Close
		return restErr
	}
	return err
}

func (s *Server) accept(h *handover) error {
	var pause time.Duration
	for {
		c, err := h.inner.Accept()
		switch {
		case err == nil:
			pause = 0
			s.start(c, h)
			continue
		case s.closed.Load():
			return http.ErrServerClosed
		case !isTemporary(err):
			return err
		}
		// Too many open files, or a client that was gone before it was accepted: as net/http does.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		time.Sleep(pause)
	}
}

func isTemporary(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Temporary() //nolint:staticcheck // what net/http goes by too: there is nothing else
}

func (s *Server) start(rwc net.Conn, h *handover) {
	c := &conn{server: s, rwc: rwc, rest: h}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		_ = rwc.Close()
		return
	}
	if s.conns == nil {
		s.conns = make(map[*conn]struct{})
	}
	s.conns[c] = struct{}{}
	go c.serve()
}

// forget is called by a connection that has ended or is net/http's.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

func (s *Server) track(h *handover) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return false
	}
	if s.listeners == nil {
		s.listeners = make(map[*handover]struct{})
	}
	s.listeners[h] = struct{}{}
	return true
}

func (s *Server) untrack(h *handover) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, h)
}

// Shutdown stops accepting, closes idle connections and waits until the rest have had their answers, HTTP's own
// included, or until ctx ends, whose error it then returns.
func (s *Server) Shutdown(ctx context.Context) error {
	idle := s.stop(func(c *conn) { c.closeIfIdle() })
	restErr := s.HTTP.Shutdown(ctx)
	select {
	case <-idle:
		return restErr
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close cuts everything at once, HTTP's connections too.
func (s *Server) Close() error {
	s.stop(func(c *conn) { _ = c.rwc.Close() })
	return s.HTTP.Close()
}

// stop closes the listeners, calls end for each connection, and returns a channel that is closed when all have gone.
func (s *Server) stop(end func(*conn)) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed.Store(true)
	for h := range s.listeners {
		_ = h.Close()
	}
	for c := range s.conns {
		end(c)
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	gone := s.changed
	if len(s.conns) == 0 {
		close(s.changed)
		s.changed = nil
	}
	return gone
}

// handover is the listener from which net/http accepts what is not for the loop.
type handover struct {
	inner  net.Listener
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandover(l net.Listener) *handover {
	return &handover{inner: l, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() (err error) {
	h.once.Do(func() {
		close(h.closed)
		err = h.inner.Close()
	})
	return err
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return h.inner.Addr() }

// give hands a connection to net/http together with what was read from it.
func (h *handover) give(rwc net.Conn, read []byte) {
	c := net.Conn(&begunConn{Conn: rwc, read: append([]byte(nil), read...)})
	if tcp, ok := rwc.(*net.TCPConn); ok {
		c = begunTCP{c.(*begunConn), tcp}
	}
	select {
	case h.conns <- c:
	case <-h.closed:
		_ = rwc.Close()
	}
}

// begunConn is a connection of which something has been read already.
type begunConn struct {
	net.Conn
	read []byte
}

// Read implements net.Conn.
func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.read) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.read)
	c.read = c.read[n:]
	return n, nil
}

// begunTCP keeps what net/http looks for: the way by which the kernel copies files, and the polite end.
type begunTCP struct {
	*begunConn
	tcp *net.TCPConn
}

// ReadFrom implements io.ReaderFrom.
func (c begunTCP) ReadFrom(r io.Reader) (int64, error) { return c.tcp.ReadFrom(r) }

// CloseWrite sends the end and leaves the other direction open.
func (c begunTCP) CloseWrite() error { return c.tcp.CloseWrite() }
