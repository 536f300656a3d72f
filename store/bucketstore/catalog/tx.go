package catalog

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// ending is how long a COMMIT or ROLLBACK may take on a server, and what else is done at an end. It does not end with
	// its caller's context: a commit that was cut off would leave the caller not knowing.
	ending = 30 * time.Second
	// beginnings is how often a transaction is begun anew on another connection: after a restart of the database every
	// connection of a pool is broken, and says so when it is used.
	beginnings = 5
)

// kind is what a transaction is for.
type kind int

const (
	reading kind = iota
	writing      // durable when it is committed
	lazily       // durable with the next one that is: what a power cut may take back
)

// tx is one transaction. Its errors of the database are *DatabaseError.
type tx struct {
	ctx     context.Context
	conn    *sql.Conn
	dialect Dialect
	now     int64 // milliseconds since 1970, the same throughout
}

// do runs f in a transaction, again where another one was in its way until ctx ends. f must bear being run again.
func (c *Catalog) do(ctx context.Context, k kind, f func(*tx) error) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := c.once(ctx, k, f)
		if err == nil || !c.dialect.again(err) {
			return err
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

func (c *Catalog) once(ctx context.Context, k kind, f func(*tx) error) (err error) {
	conn, err := c.begin(ctx, k)
	if err != nil {
		return &DatabaseError{err}
	}
	t := &tx{ctx: ctx, conn: conn, dialect: c.dialect, now: milliseconds(c.now())}
	if c.dialect == SQLite && k != reading {
		// Its statements are short, and watching a context costs more than they do.
		t.ctx = context.WithoutCancel(ctx)
	}
	end := context.WithoutCancel(ctx)
	if c.dialect != SQLite { // whose commit may have a lot to write, and cannot hang otherwise
		var cancel context.CancelFunc
		end, cancel = context.WithTimeout(end, ending)
		defer cancel()
	}
	done := false
	defer func() {
		if !done { // f failed or panicked
			if _, rollback := conn.ExecContext(end, "ROLLBACK"); rollback != nil {
				discard(conn)
			}
		}
		_ = conn.Close() // gives it back to the pool, or was discarded
	}()
	if err := f(t); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	done = true
	if _, err := conn.ExecContext(end, "COMMIT"); err != nil {
		if _, rollback := conn.ExecContext(end, "ROLLBACK"); rollback != nil {
			discard(conn)
		}
		return &DatabaseError{err}
	}
	return nil
}

func (c *Catalog) begin(ctx context.Context, k kind) (*sql.Conn, error) {
	db := c.db
	if k == reading {
		db = c.readers
	}
	for try := 1; ; try++ {
		conn, err := db.Conn(ctx)
		if err != nil {
			return nil, err
		}
		if err = c.enter(ctx, conn, k); err == nil {
			return conn, nil
		}
		discard(conn)
		_ = conn.Close()
		if ctx.Err() != nil || try == beginnings || c.dialect == SQLite {
			return nil, err
		}
	}
}

func (c *Catalog) enter(ctx context.Context, conn *sql.Conn, k kind) error {
	if c.dialect == SQLite { // see once
		ctx = context.WithoutCancel(ctx)
	}
	begin := "BEGIN ISOLATION LEVEL READ COMMITTED"
	switch {
	case c.dialect == SQLite && k == reading:
		begin = "BEGIN"
	case c.dialect == SQLite:
		level := "FULL"
		if k == lazily {
			level = "NORMAL"
		}
		if _, err := conn.ExecContext(ctx, "PRAGMA synchronous="+level); err != nil {
			return err
		}
		begin = "BEGIN IMMEDIATE"
	case k == reading:
		begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
	}
	_, err := conn.ExecContext(ctx, begin)
	return err
}

// discard keeps a connection whose state is not known from being used again.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}

// exec returns how many rows it changed.
func (t *tx) exec(query string, args ...any) (int64, error) {
	result, err := t.conn.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, &DatabaseError{err}
	}
	n, err := result.RowsAffected()
	if err != nil {
		return 0, &DatabaseError{err}
	}
	return n, nil
}

// each calls f for each row of a query, after setting dest to it.
func (t *tx) each(query string, args []any, dest []any, f func() error) error {
	rows, err := t.conn.QueryContext(t.ctx, query, args...)
	if err != nil {
		return &DatabaseError{err}
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return &DatabaseError{err}
		}
		if err := f(); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return &DatabaseError{err}
	}
	return nil
}

// row sets dest to the first row of a query, and reports whether there is one.
func (t *tx) row(query string, args []any, dest ...any) (bool, error) {
	found := false
	err := t.each(query, args, dest, func() error {
		found = true
		return errFirst
	})
	if errors.Is(err, errFirst) {
		err = nil
	}
	return found, err
}

var errFirst = errors.New("catalog: internal error: the first row is enough")

// asJSON is a list as one parameter: see Dialect.texts.
func asJSON[T any](list []T) string {
	if list == nil {
		return "[]"
	}
	b, err := json.Marshal(list)
	if err != nil {
		panic(fmt.Sprintf("catalog: internal error: %v", err))
	}
	return string(b)
}

func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMilliseconds(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
