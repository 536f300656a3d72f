// Package sqlite opens a catalog in a file: SQLite, without cgo and with nothing to set up.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// readers is how many queries run side by side. Each connection has a cache of its own.
const readers = 4

// Catalog is a catalog in a file.
type Catalog struct {
	*catalog.Catalog
	db, readers *sql.DB
}

// OpenFile opens the catalog in a file, which is made if need be, for its owner alone. Several processes of one machine
// may have it open, on a local file system. The caller closes it. Options are catalog.Open's; Readers must be nil.
func OpenFile(ctx context.Context, name string, o *catalog.Options) (*Catalog, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600) // SQLite's own files take their mode from it
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	var options catalog.Options
	if o != nil {
		options = *o
	}
	if options.Readers != nil {
		return nil, errors.New("catalog: sqlite.OpenFile makes its own Readers")
	}
	c := &Catalog{}
	if c.db, err = open(name, ""); err != nil {
		return nil, err
	}
	c.db.SetMaxOpenConns(1) // there is one writer in any case: those that wait do so in order, and without a timeout
	if c.readers, err = open(name, "query_only(1)"); err != nil {
		return nil, errors.Join(err, c.db.Close())
	}
	c.readers.SetMaxOpenConns(readers)
	c.readers.SetMaxIdleConns(readers)
	options.Readers = c.readers
	if c.Catalog, err = catalog.Open(ctx, c.db, catalog.SQLite, &options); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close closes the file. What was touched and not flushed is forgotten.
func (c *Catalog) Close() error { return errors.Join(c.readers.Close(), c.db.Close()) }

func open(name, pragma string) (*sql.DB, error) {
	// Another process's transaction is waited for by the catalog, which knows the context; SQLite's own wait is short.
	query := url.Values{"_pragma": {
		"busy_timeout(1000)", "journal_mode(wal)", "synchronous(full)", "foreign_keys(1)", "cache_size(-16000)",
	}}
	if pragma != "" {
		query.Add("_pragma", pragma)
	}
	u := url.URL{Scheme: "file", Path: name, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	return db, nil
}
