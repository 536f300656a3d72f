package plainhttp

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// bufferSize bounds the header of a request that the loop takes. Nix sends some 200 bytes.
const bufferSize = 4 << 10

// State of a connection: whether Shutdown may close it.
const (
	stateIdle int32 = iota
	stateBusy
	stateClosed
)

// conn is a connection in the loop.
type conn struct {
	server *Server
	rwc    net.Conn
	rest   *handover
	remote string

	state atomic.Int32
	in    [bufferSize]byte
	have  int // bytes in in that are not answered yet

	reading, writing deadline

	header http.Header // of responses, used again
	out    []byte      // of responses' heads and small bodies, used again
}

func (c *conn) serve() {
	defer c.server.forget(c)
	c.remote = c.rwc.RemoteAddr().String()
	for first := true; ; first = false {
		if c.have == 0 && !c.await(first) {
			_ = c.rwc.Close()
			return
		}
		if isBlank(c.in[:c.have]) {
			c.have = 0 // RFC 9112, 2.2: an empty line that some clients send behind a request
			continue
		}
		r, size := parseRequest(c.in[:c.have])
		if r == nil {
			_ = c.rwc.SetDeadline(time.Time{})
			c.rest.give(c.rwc, c.in[:c.have])
			return
		}
		c.have = copy(c.in[:], c.in[size:c.have])
		if !c.answer(r) {
			_ = c.rwc.Close()
			return
		}
	}
}

func isBlank(b []byte) bool { return string(b) == "\r\n" }

// await waits for the next request's first bytes, and reports false if there will be none.
func (c *conn) await(first bool) bool {
	if !c.state.CompareAndSwap(stateBusy, stateIdle) && !first {
		return false
	}
	if c.server.closed.Load() {
		return false
	}
	c.reading.extend(c.patience(first), c.rwc.SetReadDeadline)
	n, err := c.rwc.Read(c.in[:])
	c.have = n
	return (n > 0 || err == nil) && c.state.CompareAndSwap(stateIdle, stateBusy)
}

// closeIfIdle closes a connection that is between two requests.
func (c *conn) closeIfIdle() {
	if c.state.CompareAndSwap(stateIdle, stateClosed) {
		_ = c.rwc.Close()
	}
}

// patience is how long a client may take for the first bytes of a request, by net/http's rules. 0 is for ever.
func (c *conn) patience(first bool) time.Duration {
	h := c.server.HTTP
	d := h.IdleTimeout
	if first {
		d = h.ReadHeaderTimeout
	}
	if d == 0 {
		d = h.ReadTimeout
	}
	return max(d, 0)
}

// deadline is what is set of a connection, for one direction.
type deadline struct{ until time.Time } // zero: none

// extend sets it to d from now with set, unless what is set is almost that, for a timer costs as much as a header.
// 0 is no deadline.
func (d *deadline) extend(by time.Duration, set func(time.Time) error) {
	now := time.Now()
	left := d.until.Sub(now)
	switch {
	case by == 0 && d.until.IsZero(), by > 0 && left > by-by/8 && left <= by:
		return
	case by == 0:
		d.until = time.Time{}
	default:
		d.until = now.Add(by)
	}
	_ = set(d.until)
}

// answer has the handler answer a request, and reports whether the connection may carry another one.
func (c *conn) answer(r *http.Request) (again bool) {
	ctx := &requestContext{c: c}
	r.RemoteAddr = c.remote
	w := &response{c: c, head: r.Method == http.MethodHead, length: -1}
	if c.header == nil {
		c.header = make(http.Header)
	}
	clear(c.header)
	c.out = c.out[:0]
	w.closing = wantsClose(r.Header)
	defer func() {
		if v := recover(); v != nil {
			c.logPanic(v)
			again = false
		}
		if !ctx.end() {
			again = false
		}
	}()
	if until := c.writing.until; !until.IsZero() && !time.Now().Before(until) {
		c.writing.extend(0, c.rwc.SetWriteDeadline) // of an answer before
	}
	c.server.HTTP.Handler.ServeHTTP(w, r.WithContext(ctx))
	return w.finish() == nil && !w.closing
}

func (c *conn) logPanic(v any) {
	if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
		return
	}
	message := fmt.Sprintf("http: panic serving %v: %v\n%s", c.remote, v, debug.Stack())
	if errorLog := c.server.HTTP.ErrorLog; errorLog != nil {
		errorLog.Print(message)
		return
	}
	log.Print(message)
}

// requestContext ends with the answer, or with the client if somebody waits for that.
type requestContext struct {
	c *conn

	mu       sync.Mutex // guards all below
	done     chan struct{}
	err      error
	watching chan struct{} // closed when the goroutine that waits for the client has ended; nil if there is none
	gone     bool          // the client is
}

var _ context.Context = (*requestContext)(nil)

// Deadline implements context.Context.
func (*requestContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value implements context.Context.
func (x *requestContext) Value(key any) any {
	switch key {
	case http.ServerContextKey:
		return x.c.server.HTTP
	case http.LocalAddrContextKey:
		return x.c.rwc.LocalAddr()
	}
	return nil
}

// Err implements context.Context.
func (x *requestContext) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

// Done implements context.Context. From the first call on the connection is watched.
func (x *requestContext) Done() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.done == nil {
		x.done = make(chan struct{})
		if x.err != nil {
			close(x.done)
		} else {
			x.watching = make(chan struct{})
			x.c.reading.extend(0, x.c.rwc.SetReadDeadline)
			go x.watch(x.watching)
		}
	}
	return x.done
}

// watch reads on while the handler runs: what comes is the next request's, and an end is the client's.
func (x *requestContext) watch(ended chan struct{}) {
	defer close(ended)
	if x.c.have == len(x.c.in) {
		return
	}
	n, err := x.c.rwc.Read(x.c.in[x.c.have:])
	x.c.have += n
	if err == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		x.gone = true
		x.err = context.Canceled
		close(x.done)
	}
}

// end is called when the handler has returned. It reports whether the client is still there.
func (x *requestContext) end() bool {
	x.mu.Lock()
	if x.err == nil {
		x.err = context.Canceled
		if x.done != nil {
			close(x.done)
		}
	}
	watching := x.watching
	x.mu.Unlock()
	if watching != nil {
		_ = x.c.rwc.SetReadDeadline(time.Unix(1, 0))
		<-watching
		_ = x.c.rwc.SetReadDeadline(time.Time{})
	}
	return !x.gone
}
