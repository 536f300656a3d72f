package nixproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

const (
	defaultMaxConns    = 4
	defaultIdleTimeout = 30 * time.Second
)

// PoolOptions bound a pool. nil and the zero value are the same.
type PoolOptions struct {
	// MaxConns bounds the connections, each of which is a process of the daemon's; below 1 means 4.
	// Further queries wait.
	MaxConns int

	// IdleTimeout is after how long an unused connection is closed; 0 or less means 30 seconds.
	IdleTimeout time.Duration
}

// Pool answers queries over a bounded number of connections, made when needed and used again.
//
// It is safe for concurrent use. Its methods are the queries of [Client], and each fails likewise.
// A broken connection is dropped.
// A query that fails because an unused connection has gone, as all do when a daemon restarts, is asked once more on a
// new one; nothing else is retried.
type Pool struct {
	dial        func(context.Context) (*Client, error)
	idleTimeout time.Duration
	slots       chan struct{} // holds one element for each connection in use

	mu     sync.Mutex // guards all below
	idle   []*idleConn
	closed bool
}

type idleConn struct {
	client *Client
	expiry *time.Timer
}

// NewPool makes a pool of connections made by dial, which is mostly a call of [Dial].
// It does no I/O. Close releases it.
func NewPool(dial func(context.Context) (*Client, error), o *PoolOptions) *Pool {
	p := &Pool{dial: dial, idleTimeout: defaultIdleTimeout}
	conns := defaultMaxConns
	if o != nil && o.MaxConns > 0 {
		conns = o.MaxConns
	}
	if o != nil && o.IdleTimeout > 0 {
		p.idleTimeout = o.IdleTimeout
	}
	p.slots = make(chan struct{}, conns)
	return p
}

// Close closes the unused connections, and each other one when its query is done. Later queries return [ErrClosed].
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.dropIdle()
	return nil
}

// Peer returns what the daemon says of itself.
func (p *Pool) Peer(ctx context.Context) (Peer, error) {
	return pooled(ctx, p, func(c *Client) (Peer, error) { return c.Peer(), nil })
}

// PathInfo is [Client.PathInfo].
func (p *Pool) PathInfo(ctx context.Context, path narinfo.StorePath) (*PathInfo, error) {
	return pooled(ctx, p, func(c *Client) (*PathInfo, error) { return c.PathInfo(ctx, path) })
}

// PathFromHashPart is [Client.PathFromHashPart].
func (p *Pool) PathFromHashPart(ctx context.Context, hash narinfo.HashPart) (narinfo.StorePath, error) {
	return pooled(ctx, p, func(c *Client) (narinfo.StorePath, error) { return c.PathFromHashPart(ctx, hash) })
}

// IsValidPath is [Client.IsValidPath].
func (p *Pool) IsValidPath(ctx context.Context, path narinfo.StorePath) (bool, error) {
	return pooled(ctx, p, func(c *Client) (bool, error) { return c.IsValidPath(ctx, path) })
}

// Referrers is [Client.Referrers].
func (p *Pool) Referrers(ctx context.Context, path narinfo.StorePath) ([]narinfo.StorePath, error) {
	return pooled(ctx, p, func(c *Client) ([]narinfo.StorePath, error) { return c.Referrers(ctx, path) })
}

// AllValidPaths is [Client.AllValidPaths].
func (p *Pool) AllValidPaths(ctx context.Context) ([]narinfo.StorePath, error) {
	return pooled(ctx, p, func(c *Client) ([]narinfo.StorePath, error) { return c.AllValidPaths(ctx) })
}

// ValidDerivers is [Client.ValidDerivers].
func (p *Pool) ValidDerivers(ctx context.Context, path narinfo.StorePath) ([]narinfo.StorePath, error) {
	return pooled(ctx, p, func(c *Client) ([]narinfo.StorePath, error) { return c.ValidDerivers(ctx, path) })
}

// DerivationOutputs is [Client.DerivationOutputs].
func (p *Pool) DerivationOutputs(ctx context.Context, drv narinfo.StorePath) (map[string]narinfo.StorePath, error) {
	return pooled(ctx, p, func(c *Client) (map[string]narinfo.StorePath, error) {
		return c.DerivationOutputs(ctx, drv)
	})
}

// Realisation is [Client.Realisation].
func (p *Pool) Realisation(ctx context.Context, id string) ([]byte, error) {
	return pooled(ctx, p, func(c *Client) ([]byte, error) { return c.Realisation(ctx, id) })
}

// NARFromPath is [Client.NARFromPath]. The reader occupies a connection until it is closed.
func (p *Pool) NARFromPath(ctx context.Context, path narinfo.StorePath) (io.ReadCloser, error) {
	l, err := p.lease(ctx)
	if err != nil {
		return nil, err
	}
	nar, err := leased(ctx, l, func(c *Client) (io.ReadCloser, error) { return c.NARFromPath(ctx, path) })
	if err != nil {
		l.end()
		return nil, err
	}
	return &leasedNAR{ReadCloser: nar, end: sync.OnceFunc(l.end)}, nil
}

// leasedNAR ends its lease when it is closed.
type leasedNAR struct {
	io.ReadCloser
	end func()
}

func (n *leasedNAR) Close() error {
	err := n.ReadCloser.Close()
	n.end()
	return err
}

// pooled asks a query on one of the pool's connections.
func pooled[T any](ctx context.Context, p *Pool, query func(*Client) (T, error)) (T, error) {
	l, err := p.lease(ctx)
	if err != nil {
		var zero T
		return zero, err
	}
	defer l.end()
	return leased(ctx, l, query)
}

// leased asks a query on a lease's connection, or on a new one if that has gone while it was unused.
func leased[T any](ctx context.Context, l *lease, query func(*Client) (T, error)) (T, error) {
	answer, err := query(l.client)
	if err == nil || !l.reused || !l.client.gone() || ctx.Err() != nil {
		return answer, err
	}
	l.pool.dropIdle()
	client, err := l.pool.dial(ctx)
	if err != nil {
		var zero T
		return zero, err
	}
	l.client, l.reused = client, false
	return query(client)
}

// gone reports whether the transport failed, rather than the daemon or a caller's patience.
func (c *link) gone() bool {
	_, remote := errors.AsType[*RemoteError](c.err)
	return c.err != nil && !remote && !errors.Is(c.err, ErrProtocol)
}

// lease is a connection in use, with the pool's slot that it occupies.
type lease struct {
	pool   *Pool
	client *Client
	reused bool
}

// lease waits for a slot and takes the connection that was used last, or makes one.
func (p *Pool) lease(ctx context.Context) (*lease, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("nixproto: wait for a connection: %w", context.Cause(ctx))
	}
	client, err := p.takeIdle()
	reused := client != nil
	if err == nil && client == nil {
		client, err = p.dial(ctx)
	}
	if err != nil {
		<-p.slots
		return nil, err
	}
	return &lease{p, client, reused}, nil
}

// end keeps the connection for later, if it is whole, and frees the slot.
func (l *lease) end() {
	defer func() { <-l.pool.slots }()
	if l.client.err != nil || !l.pool.keep(l.client) {
		l.client.Close()
	}
}

func (p *Pool) keep(c *Client) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	conn := &idleConn{client: c}
	conn.expiry = time.AfterFunc(p.idleTimeout, func() { p.expire(conn) })
	p.idle = append(p.idle, conn)
	return true
}

// takeIdle returns nil where no connection is unused.
func (p *Pool) takeIdle() (*Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, fmt.Errorf("nixproto: pool is %w", ErrClosed)
	}
	last := len(p.idle) - 1
	if last < 0 {
		return nil, nil
	}
	conn := p.idle[last]
	p.idle = p.idle[:last]
	conn.expiry.Stop()
	return conn.client, nil
}

// expire closes a connection that is still unused.
func (p *Pool) expire(conn *idleConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range p.idle {
		if c == conn {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			conn.client.Close()
			return
		}
	}
}

func (p *Pool) dropIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.idle {
		conn.expiry.Stop()
		conn.client.Close()
	}
	p.idle = nil
}
