package nixproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// link is a client's side of a connection, for either protocol.
type link struct {
	shut    func() error // closes the transport, once
	enc     *encoder
	dec     *decoder
	options Options
	err     error       // why the connection is of no more use
	reading bool        // a NAR is open
	ended   atomic.Bool // Close was called
}

// open takes conn over, and closes it if the options are wrong.
func (c *link) open(conn io.ReadWriteCloser, o *Options) error {
	c.shut, c.enc, c.dec = sync.OnceValue(conn.Close), newEncoder(conn), newDecoder(conn)
	if o != nil {
		c.options = *o
	}
	if err := c.options.complete(); err != nil {
		_ = c.shut()
		return err
	}
	return nil
}

// Close ends the connection, and makes a method or reader that waits on it fail. A second Close does nothing.
func (c *link) Close() error {
	if c.ended.Swap(true) {
		return nil
	}
	return c.shut()
}

// while runs an exchange that ends when ctx ends, and closes the connection if either failed.
func (c *link) while(ctx context.Context, doing string, exchange func() error) error {
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
func (c *link) hold(ctx context.Context) (release func() error, err error) {
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

func (c *link) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	_ = c.shut()
}

// limitReply begins a result of the size that the options allow.
func (c *link) limitReply() { c.dec.limit(uint64(c.options.MaxReply)) }
