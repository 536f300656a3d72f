package nixproto

import (
	"context"
	"fmt"
	"io"
	"net"
)

// DefaultSocket is where Nix's daemon listens unless told otherwise.
const DefaultSocket = "/nix/var/nix/daemon-socket/socket"

const defaultMaxReply = 256 << 20

// Options change how a connection behaves. nil and the zero value are the same.
type Options struct {
	// MaxReply bounds the bytes of one result other than a NAR; 0 means 256 MiB, about two million paths.
	MaxReply int64

	// MaxVersion is the newest version of the worker protocol to speak; zero means 1.38. Older than 1.32 is an error.
	// The serve protocol ignores it.
	MaxVersion Version

	// OnEvent receives the daemon's log lines and activities while a method waits for its result.
	// It is called on the goroutine of that method, and must not use the connection.
	// nil discards them.
	OnEvent func(Event)
}

// complete puts the defaults in.
func (o *Options) complete() error {
	if o.MaxReply < 0 {
		return fmt.Errorf("nixproto: MaxReply is %d", o.MaxReply)
	}
	if o.MaxReply == 0 {
		o.MaxReply = defaultMaxReply
	}
	var err error
	o.MaxVersion, err = checkMaxVersion(o.MaxVersion)
	return err
}

// Client is one connection to a daemon.
//
// It is not safe for concurrent use, Close excepted: see [Pool].
// Each method that takes a context returns soon after that context ends, and then the connection is closed.
// It is also closed by any failure but [store.ErrNotFound] and errors.ErrUnsupported,
// even by a [RemoteError]: after some of them, which look like all others, a daemon is out of step.
// Every later call then returns [ErrClosed].
type Client struct {
	link
	peer Peer
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
	c := new(Client)
	if err := c.open(conn, o); err != nil {
		return nil, err
	}
	err := c.while(ctx, "greet the daemon", func() error {
		peer, err := handshake(c.enc, c.dec, &c.options)
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

// call sends one operation and reads its result.
func (c *Client) call(ctx context.Context, o op, encode func(*encoder), decode func(*decoder)) error {
	return c.while(ctx, o.String(), func() error {
		if err := c.request(o, encode); err != nil {
			return err
		}
		c.limitReply()
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
