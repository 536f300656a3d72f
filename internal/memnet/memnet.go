// Package memnet is a network inside one process, for tests of timeouts under testing/synctest:
// a connection that blocks there is durably blocked, which one over the kernel's loopback never is.
//
// Most callers want [Listen], an [net/http.Server] that serves the listener, and a client whose dialler is
// [Listener.DialContext].
package memnet

import (
	"context"
	"net"
	"sync"
)

// Listener is a [net.Listener] without an address. It is safe for concurrent use.
type Listener struct {
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

var _ net.Listener = (*Listener)(nil)

// Listen returns a listener. It must be closed, for a dialler waits for Accept as long as it is open.
func Listen() *Listener {
	return &Listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// DialContext connects to the listener, whatever network and address say, once it accepts.
// Both ends are those of [net.Pipe]: unbuffered, with deadlines.
func (l *Listener) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: "mem", Addr: l.Addr(), Err: net.ErrClosed}
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: "mem", Addr: l.Addr(), Err: ctx.Err()}
	}
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "mem", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close makes every Accept and DialContext fail. Connections that were made stay.
// Its error is always nil; a second Close does nothing.
func (l *Listener) Close() error {
	l.close.Do(func() { close(l.closed) })
	return nil
}

// Addr returns an address that says only that it is in memory.
func (l *Listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "mem" }
func (addr) String() string  { return "mem" }
