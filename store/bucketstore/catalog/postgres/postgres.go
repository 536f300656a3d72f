// Package postgres opens a catalog in a PostgreSQL database, which any number of replicas share.
package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

const (
	connections = 16 // at most, of one process
	idleFor     = 5 * time.Minute
	dialFor     = 10 * time.Second // unless the URL says another connect_timeout
)

// Catalog is a catalog in a database server.
type Catalog struct {
	*catalog.Catalog
	db *sql.DB
}

// Connect opens the catalog in the database that a URL names, postgres://USER@HOST/DATABASE, or a DSN of libpq. What it
// leaves open comes from libpq's environment variables and password file. The user must be allowed to make tables the
// first time, and after an update. At most 16 connections are open at a time. The caller closes it. Options are
// catalog.Open's.
//
// An error names neither the URL nor a password in it.
func Connect(ctx context.Context, url string, o *catalog.Options) (*Catalog, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("catalog: a URL that is none of a PostgreSQL database") // the cause quotes it
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = dialFor
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	db.SetConnMaxIdleTime(idleFor)
	c, err := catalog.Open(ctx, db, catalog.PostgreSQL, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("catalog: %s: %w", config.Host, err), db.Close())
	}
	return &Catalog{c, db}, nil
}

// Close closes all connections. What was touched and not flushed is forgotten.
func (c *Catalog) Close() error { return c.db.Close() }
