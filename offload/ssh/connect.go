package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

// connect makes a connection that is ready for sessions. Its error is an *Error, but for a context's.
func connect(ctx context.Context, h Host, o *Options) (*link, xssh.Conn, <-chan xssh.NewChannel, <-chan *xssh.Request, error) {
	fail := func(err error) (*link, xssh.Conn, <-chan xssh.NewChannel, <-chan *xssh.Request, error) {
		return nil, nil, nil, nil, err
	}
	keys, err := newHostKeys(h, o)
	if err != nil {
		return fail(err)
	}
	ids, err := newIdentities(h, o, time.Now().Add(o.Connect))
	if err != nil {
		return fail(err)
	}
	defer ids.close()
	l, err := dial(ctx, h, o)
	if err != nil {
		return fail(err)
	}
	deadline := time.Now().Add(o.Handshake)
	if ids.agent != nil {
		_ = ids.agent.SetDeadline(deadline) // a connection has deadlines
	}
	_ = l.SetDeadline(deadline) // the handshake fails with it
	stop := context.AfterFunc(ctx, func() { l.end(context.Cause(ctx)) })
	defer stop()
	shown := &atomic.Bool{} // the builder has proved its key
	c, chans, reqs, err := xssh.NewClientConn(l, h.addr(), &xssh.ClientConfig{
		User: h.User, Auth: []xssh.AuthMethod{xssh.PublicKeys(ids.signers...)},
		HostKeyAlgorithms: keys.preferred(),
		HostKeyCallback: func(addr string, remote net.Addr, key xssh.PublicKey) error {
			err := keys.verify(addr, remote, key)
			shown.Store(err == nil)
			return err
		},
	})
	if err != nil {
		if ctx.Err() != nil {
			return fail(context.Cause(ctx))
		}
		return fail(handshakeError(err, l, h, o, ids, shown.Load()))
	}
	_ = l.SetDeadline(time.Time{}) // from here on reads wait, and the keepalives watch over them
	l.ready.Store(true)
	return l, c, chans, reqs, nil
}

// dial makes the TCP connection.
func dial(ctx context.Context, h Host, o *Options) (*link, error) {
	within, cancel := context.WithTimeout(ctx, o.Connect)
	defer cancel()
	c, err := o.Dial(within, "tcp", h.addr())
	if err == nil {
		return newLink(c, o.Silence), nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	e := &Error{Kind: Unreachable, Host: h.Name, Reason: fmt.Sprintf("%s: %v", h.addr(), err), cause: err}
	switch dns := new(net.DNSError); {
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Kind, e.Reason = Refused, h.addr()+" refuses connections"
		e.Hint = "is sshd running there, on that port?"
	case errors.As(err, &dns) && dns.IsNotFound:
		e.Reason = fmt.Sprintf("there is no address for %q", h.Address)
	case within.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		e.Reason = fmt.Sprintf("%s did not answer within %s", h.addr(), o.Connect)
		e.Hint = "is it switched on, and in this network?"
	}
	return nil, e
}

// handshakeError says what a failed handshake means.
func handshakeError(err error, l *link, h Host, o *Options, ids *identities, shown bool) error {
	if e := new(Error); errors.As(err, &e) {
		return e // of the host key
	}
	ended := l.why()
	if errors.Is(ended, net.ErrClosed) { // by us, after the error
		ended = nil
	}
	text := strings.TrimPrefix(err.Error(), "ssh: handshake failed: ")
	e := &Error{Kind: NotSSH, Host: h.Name, Reason: fmt.Sprintf("%s speaks no SSH that we understand: %s", h.addr(), text), cause: err}
	switch {
	case errors.Is(ended, os.ErrDeadlineExceeded):
		e.Kind = Unreachable
		e.Reason = fmt.Sprintf("%s accepted the connection and did not finish the handshake within %s", h.addr(), o.Handshake)
		e.Hint = "is it overloaded, or hung?"
	case shown && (strings.Contains(text, "unable to authenticate") || strings.Contains(text, "disconnect, reason 2")):
		return ids.rejected(h, err)
	case ended != nil && errors.Is(err, ended):
		e.Kind = Refused
		e.Reason = fmt.Sprintf("%s closed the connection during the handshake: %v", h.addr(), ended)
		e.Hint = "does a firewall, or MaxStartups of an overloaded sshd?"
	}
	return e
}
