package localstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"
)

// errDatabase reports that the database could not be read, which the daemon may make up for.
var errDatabase = errors.New("Nix's database cannot be read")

const (
	maxConns    = 4
	busyTimeout = 5 * time.Second // how long one query waits for locks of others
	// Between a writer's -wal and its -shm there are microseconds; 31 ms of retries are plenty.
	sqliteRetries = 5
)

// database answers queries over a few connections, made when needed.
// Each is checked before each query, and an immutable one also after it: see conn.fresh.
// It is safe for concurrent use.
type database struct {
	path  string
	slots chan struct{} // one element for each connection in use

	mu     sync.Mutex // guards idle and closed
	idle   []*conn
	closed bool
}

func newDatabase(path string) *database {
	return &database{path: path, slots: make(chan struct{}, maxConns)}
}

// query runs f on a connection until it has answered from one consistent state of the database.
// f may be called again and must then begin anew.
func (d *database) query(ctx context.Context, f func(*sqlite.Conn) error) error {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	deadline := time.Now().Add(busyTimeout)
	for attempt := 0; ; attempt++ {
		err := d.once(ctx, f)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		again := errors.Is(err, errAgain) && time.Now().Before(deadline)
		if !again && !(errors.Is(err, errSQLite) && attempt < sqliteRetries) {
			return err
		}
		select {
		case <-time.After(min(time.Millisecond<<min(attempt, 6), 50*time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *database) once(ctx context.Context, f func(*sqlite.Conn) error) error {
	c, err := d.take()
	if err != nil {
		return err
	}
	err = c.run(ctx, f)
	if errors.Is(err, errDatabase) {
		c.close()
		return err
	}
	d.put(c)
	return err
}

// take returns an idle connection that is fresh, or a new one.
func (d *database) take() (*conn, error) {
	for {
		d.mu.Lock()
		if d.closed {
			d.mu.Unlock()
			return nil, errClosed
		}
		n := len(d.idle)
		if n == 0 {
			d.mu.Unlock()
			return openConn(d.path)
		}
		c := d.idle[n-1]
		d.idle = d.idle[:n-1]
		d.mu.Unlock()
		if c.fresh() {
			return c, nil
		}
		c.close()
	}
}

func (d *database) put(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		c.close()
		return
	}
	d.idle = append(d.idle, c)
}

// close closes the idle connections, and each other one when its query is done.
func (d *database) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, c := range d.idle {
		c.close()
	}
	d.idle = nil
}

var (
	// errAgain reports a failure that a new attempt will not meet once others are done.
	errAgain = fmt.Errorf("%w: it is being changed", errDatabase)
	// errSQLite reports one that a new attempt hardly meets if a writer is just making or removing its files.
	errSQLite = fmt.Errorf("%w as it is", errDatabase)
)
