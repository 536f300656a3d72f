package nixproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// DefaultSocket is where Nix's daemon listens unless told otherwise.
const DefaultSocket = "/nix/var/nix/daemon-socket/socket"

const defaultMaxReply = 256 << 20

// Options change how a connection behaves. nil and the zero value are the same.
type Options struct {
	// MaxReply bounds the bytes of one result other than a NAR; 0 means 256 MiB, about two million paths.
	MaxReply int64

	// OnEvent receives the daemon's log lines and activities while a method waits for its result.
	// It is called on the goroutine of that method, and must not use the connection.
	// nil discards them.
	OnEvent func(Event)
}

// Client is one connection to a daemon.
//
// It is not safe for concurrent use, Close excepted: see [Pool].
// Each method that takes a context returns soon after that context ends, and then the connection is closed.
// It is also closed by any failure but [store.ErrNotFound] and errors.ErrUnsupported,
// even by a [RemoteError]: after some of them, which look like all others, a daemon is out of step.
// Every later call then returns [ErrClosed].
type Client struct {
	shut    func() error // closes the transport, once
	enc     *encoder
	dec     *decoder
	peer    Peer
	options Options
	err     error       // why the connection is of no more use
	reading bool        // a NAR is open
	ended   atomic.Bool // Close was called
}

// Dial connects to the daemon's socket ("" means [DefaultSocket]) and greets it.
// The context governs this alone.
func Dial(ctx context.Context, socket string, o *Options) (*Client, error) {
	if socket == "" {
		socket = DefaultSocket
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("nixproto: %w", err)
	}
	return NewClient(ctx, conn, o)
}

// NewClient greets a daemon at the other end of conn, which may be any transport whose Close ends a blocked Read.
// conn belongs to the client from now on, and is closed if NewClient fails.
func NewClient(ctx context.Context, conn io.ReadWriteCloser, o *Options) (*Client, error) {
	c := &Client{shut: sync.OnceValue(conn.Close), enc: newEncoder(conn), dec: newDecoder(conn)}
	if o != nil {
		c.options = *o
	}
	if c.options.MaxReply < 0 {
		_ = c.shut()
		return nil, fmt.Errorf("nixproto: MaxReply is %d", c.options.MaxReply)
	}
	if c.options.MaxReply == 0 {
		c.options.MaxReply = defaultMaxReply
	}
	err := c.while(ctx, "greet the daemon", func() error {
		peer, err := handshake(c.enc, c.dec, c.options.OnEvent)
		if err == nil {
			c.peer = *peer
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Peer returns what the daemon said of itself. The caller does not change Features.
func (c *Client) Peer() Peer { return c.peer }

// Close ends the connection, and makes a method or reader that waits on it fail. A second Close does nothing.
func (c *Client) Close() error {
	if c.ended.Swap(true) {
		return nil
	}
	return c.shut()
}

// call sends one operation and reads its result.
func (c *Client) call(ctx context.Context, o op, encode func(*encoder), decode func(*decoder)) error {
	return c.while(ctx, o.String(), func() error {
		if err := c.request(o, encode); err != nil {
			return err
		}
		c.dec.limit(uint64(c.options.MaxReply))
		decode(c.dec)
		return c.dec.err
	})
}

// request sends one operation and reads up to where its result begins.
func (c *Client) request(o op, encode func(*encoder)) error {
	c.enc.uint64(uint64(o))
	encode(c.enc)
	if err := c.enc.flush(); err != nil {
		return err
	}
	return drain(c.dec, c.options.OnEvent)
}

// while runs an exchange that ends when ctx ends, and closes the connection if either failed.
func (c *Client) while(ctx context.Context, doing string, exchange func() error) error {
	release, err := c.hold(ctx)
	if err != nil {
		return fmt.Errorf("nixproto: %s: %w", doing, err)
	}
	err = exchange()
	if cause := release(); cause != nil {
		c.fail(cause)
		if err != nil {
			err = cause
		}
	}
	if err != nil {
		c.fail(err)
		return fmt.Errorf("nixproto: %s: %w", doing, err)
	}
	return nil
}

// hold makes the end of ctx close the connection until release is called.
// release waits for a close that is under way, and returns why there was one.
func (c *Client) hold(ctx context.Context) (release func() error, err error) {
	switch {
	case c.ended.Load():
		return nil, fmt.Errorf("connection %w", ErrClosed)
	case c.err != nil:
		return nil, fmt.Errorf("connection %w (%v)", ErrClosed, c.err)
	case c.reading:
		return nil, errors.New("connection is busy with a NAR")
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.shut()
		close(done)
	})
	return func() error {
		if stop() {
			return nil
		}
		<-done
		return context.Cause(ctx)
	}, nil
}

func (c *Client) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	_ = c.shut()
}
