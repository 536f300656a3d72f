package catalog

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Options are what Open may be told. The zero value of each field means its default.
type Options struct {
	// Readers is a pool for what only reads, beside the one that writes: SQLite reads while it writes, but not on one
	// connection. nil: the same pool.
	Readers *sql.DB

	// Lease is for how long a publication keeps what it needs, and for how long a deletion keeps others off; their work on
	// files ends after half of it. Replicas' clocks must not differ by more than a third. Default five minutes.
	Lease time.Duration

	// FlushEvery is how often Run writes down what was touched. Default one second.
	FlushEvery time.Duration

	// Holder names this process to others that ask for a lock it holds. Default: host name and process number.
	Holder string

	// Logger is told what Run could not do. nil: nobody is.
	Logger *slog.Logger

	// Now is the clock, for tests. nil: time.Now.
	Now func() time.Time
}

// Catalog is an open catalog. It is safe for concurrent use, by any number of processes.
type Catalog struct {
	db, readers *sql.DB
	dialect     Dialect
	lease       time.Duration
	flushEvery  time.Duration
	holder      string
	log         *slog.Logger
	now         func() time.Time

	flush    sync.Mutex // held during a Flush
	mu       sync.Mutex // guards all below
	touched  map[slot]time.Time
	flushing map[slot]time.Time // what a Flush is just writing down
}

// slot is where a path of a cache is.
type slot struct {
	cache string
	hash  narinfo.HashPart
}

// Open opens the catalog in a database, in which it makes or updates its tables first; several processes may do so at a
// time. A database that a newer release has opened is an error. Packages sqlite and postgres, below this one, make
// pools that are set up well.
//
// The caller closes db, and the pool of readers, after the catalog is no longer used. o is copied, nil is the zero value.
func Open(ctx context.Context, db *sql.DB, dialect Dialect, o *Options) (*Catalog, error) {
	if dialect != SQLite && dialect != PostgreSQL {
		return nil, fmt.Errorf("catalog: no such dialect: %d", int(dialect))
	}
	c := &Catalog{db: db, readers: db, dialect: dialect, touched: make(map[slot]time.Time)}
	var given Options
	if o != nil {
		given = *o
	}
	if given.Lease < 0 || given.FlushEvery < 0 {
		return nil, errors.New("catalog: negative Lease or FlushEvery")
	}
	if given.Readers != nil {
		c.readers = given.Readers
	}
	if c.lease = given.Lease; c.lease == 0 {
		c.lease = 5 * time.Minute
	}
	if c.flushEvery = given.FlushEvery; c.flushEvery == 0 {
		c.flushEvery = time.Second
	}
	if c.log = given.Logger; c.log == nil {
		c.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if c.now = given.Now; c.now == nil {
		c.now = time.Now
	}
	if c.holder = given.Holder; c.holder == "" {
		host, _ := os.Hostname()
		c.holder = fmt.Sprintf("%s, process %d", host, os.Getpid())
	}
	c.holder += " (" + rand.Text()[:8] + ")" // two of one name must not take each other for themselves
	if err := c.migrate(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Now returns the time by the catalog's clock.
func (c *Catalog) Now() time.Time { return c.now() }

// NarinfoKey returns the key of a path's metadata in the bucket: HASHPART.narinfo for the cache named "", and
// NAME/HASHPART.narinfo for others.
func NarinfoKey(cache string, hash narinfo.HashPart) string {
	key := string(hash) + ".narinfo"
	if cache == "" {
		return key
	}
	return cache + "/" + key
}
