package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"modernc.org/sqlite" // the driver "sqlite"

	"github.com/voidnxlab/nixtrap/offload"
)

// Options bound the history. Nil is the zero value, and a field of 0 its default.
type Options struct {
	// Log is told of damage and of trouble with the file; nil discards.
	Log *slog.Logger
	// PerKey is how many builds are kept of a package for a system on a machine; 30.
	PerKey int
	// Total is how many builds are kept in all; 50,000.
	Total int
	// Decisions is how many decision records are kept; 10,000.
	Decisions int
	// DecisionAge is how long they are kept; 30 days.
	DecisionAge time.Duration
}

func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.PerKey < 0 || c.Total < 0 || c.Decisions < 0 || c.DecisionAge < 0 {
		return c, errors.New("history: a bound is negative")
	}
	for _, d := range []struct {
		field     *int
		otherwise int
	}{{&c.PerKey, 30}, {&c.Total, 50_000}, {&c.Decisions, 10_000}} {
		if *d.field == 0 {
			*d.field = d.otherwise
		}
	}
	if c.DecisionAge == 0 {
		c.DecisionAge = 30 * 24 * time.Hour
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// DB is an open history. It is safe for concurrent use.
type DB struct {
	options Options
	name    string

	writing sync.Mutex // one writer at a time, and guards file
	file    *file      // nil while there is none

	index index // in memory
}

// file is a database that is open.
type file struct {
	writer  *sql.DB
	reader  *sql.DB     // the index', which waits for nobody
	queries *sql.DB     // for decisions
	info    os.FileInfo // of the file when it was opened
}

// Open opens the history in a file, which is made if need be. The folder must exist. The caller closes it.
// Trouble with the file is logged and not returned: see the package's comment. The context is for this call.
func Open(ctx context.Context, name string, o *Options) (*DB, error) {
	options, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if name, err = filepath.Abs(name); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	d := &DB{options: options, name: name}
	d.index.reset(&d.options)
	d.writing.Lock()
	defer d.writing.Unlock()
	d.reopen(ctx)
	return d, nil
}

// Close closes the file.
func (d *DB) Close() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	return d.shut()
}

func (d *DB) shut() error {
	if d.file == nil {
		return nil
	}
	f := d.file
	d.file = nil
	d.index.attach(nil)
	return f.close()
}

// reopen opens the file by its name, and moves it aside first if it is damaged. The caller holds writing.
func (d *DB) reopen(ctx context.Context) {
	_ = d.shut()
	for range 2 {
		f, err := openFile(ctx, d.name)
		if err == nil {
			d.file = f
			d.index.attach(f.reader)
			d.index.refresh(ctx)
			return
		}
		if !damaged(err) {
			d.options.Log.WarnContext(ctx, "history is kept in memory alone", "file", d.name, "error", err)
			return
		}
		d.moveAside(ctx, err)
	}
}

// moveAside renames a damaged database, its journal first: a new database must not find that.
func (d *DB) moveAside(ctx context.Context, cause error) {
	aside := d.name + ".damaged-" + time.Now().UTC().Format("20060102T150405.000")
	var errs []error
	for _, suffix := range []string{"-wal", "-shm", ""} {
		if err := os.Rename(d.name+suffix, aside+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	d.options.Log.ErrorContext(ctx, "history was damaged and is begun anew",
		"file", d.name, "moved_to", aside, "error", cause, "rename_error", errors.Join(errs...))
}

const version = 1

const schema = `
create table builds (
	id integer primary key,
	pname text not null, stem text not null, system text not null, machine text not null, label text not null,
	features text not null, cores integer not null,
	wall real not null, cpu real not null, peak_memory integer not null, output integer not null,
	bytes_in integer not null, bytes_out integer not null,
	result text not null, at integer not null, origin text not null
);
create index builds_key on builds (pname, stem, system, machine);
create unique index builds_seeded on builds (origin, machine, stem, at, wall) where origin <> '';
create table decisions (
	id integer primary key, drv text not null, at integer not null, record blob not null
);
create index decisions_drv on decisions (drv, id);
pragma user_version = 1;
`

func openFile(ctx context.Context, name string) (_ *file, err error) {
	created, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600) // SQLite's own files take their mode from it
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	f := &file{}
	f.info, err = created.Stat()
	if err := errors.Join(err, created.Close()); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.close()
		}
	}()
	if f.writer, err = openConn(name); err != nil {
		return nil, err
	}
	if err := migrate(ctx, f.writer); err != nil {
		return nil, err
	}
	if err := check(ctx, f.writer); err != nil {
		return nil, err
	}
	if f.reader, err = openConn(name, "query_only(1)", "busy_timeout(20)"); err != nil { // no decision waits for a lock
		return nil, err
	}
	f.queries, err = openConn(name, "query_only(1)")
	return f, err
}

func (f *file) close() error {
	var errs []error
	for _, db := range []*sql.DB{f.queries, f.reader, f.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

func openConn(name string, pragmas ...string) (*sql.DB, error) {
	query := url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{
		"busy_timeout(5000)", "journal_mode(wal)", "synchronous(normal)", "cache_size(-4000)",
	}, pragmas...)}
	u := url.URL{Scheme: "file", Path: name, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	db.SetMaxOpenConns(1) // data_version is a connection's
	return db, nil
}

// migrate makes the tables in a database that is empty. Another process may be doing the same.
func migrate(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	var found, tables int
	if err := tx.QueryRowContext(ctx, "pragma user_version").Scan(&found); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if err := tx.QueryRowContext(ctx, "select count(*) from sqlite_master").Scan(&tables); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	switch {
	case found == version:
		return nil
	case found > version:
		return fmt.Errorf("history: the tables are of version %d, and this program knows %d", found, version)
	case tables > 0:
		return errors.New("history: the file is a database of something else")
	}
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return nil
}

// check looks for damage: SQLite's own check is quick on what the bounds allow.
func check(ctx context.Context, db *sql.DB) error {
	var verdict string
	if err := db.QueryRowContext(ctx, "pragma quick_check(1)").Scan(&verdict); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if verdict != "ok" {
		return &damage{verdict}
	}
	return nil
}

// damage is what SQLite's check found.
type damage struct{ verdict string }

func (d *damage) Error() string { return "history: " + d.verdict }

// damaged says whether an error is the file's and not its surroundings'.
func damaged(err error) bool {
	if _, ok := errors.AsType[*damage](err); ok {
		return true
	}
	switch code(err) {
	case 11, 26: // SQLITE_CORRUPT, SQLITE_NOTADB
		return true
	}
	return false
}

// suspicious says whether an error may be due to damage, or to the file being another's now, which opening it tells.
func suspicious(err error) bool {
	switch code(err) {
	case 8, 10, 11, 14, 26: // SQLITE_READONLY, SQLITE_IOERR, SQLITE_CORRUPT, SQLITE_CANTOPEN, SQLITE_NOTADB
		return true
	}
	return false
}

// code is SQLite's primary result code, 0 if the error isn't SQLite's.
func code(err error) int {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return 0
	}
	return e.Code() & 0xff
}

// write runs a transaction. A database that proves damaged, or is no longer the file of its name, is opened again, once.
func (d *DB) write(ctx context.Context, do func(tx *sql.Tx) error) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if d.file == nil || d.replaced() {
		d.reopen(ctx)
	}
	err := d.transaction(ctx, do)
	if err != nil && suspicious(err) {
		d.reopen(ctx) // which checks it
		err = d.transaction(ctx, do)
	}
	return err
}

func (d *DB) transaction(ctx context.Context, do func(tx *sql.Tx) error) error {
	if d.file == nil {
		return errNoFile
	}
	tx, err := d.file.writer.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	if err := do(tx); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("history: %w", err)
	}
	return nil
}

var errNoFile = errors.New("history: there is no file")

// replaced says whether another process moved the file aside.
func (d *DB) replaced() bool {
	info, err := os.Stat(d.name)
	return err != nil || !os.SameFile(info, d.file.info)
}

// Build is one build that ended.
type Build struct {
	// Request is what was built.
	Request *offload.Request
	// Machine is where, by its name.
	Machine string
	// Cores is how many it was given; 0 is unknown.
	Cores int
	// Wall and CPU are how long it took, transfers not included; a CPU of 0 is unknown.
	Wall, CPU time.Duration
	// PeakMemory is in bytes; 0 is unknown.
	PeakMemory int64
	// OutputBytes is the outputs' size; 0 is unknown.
	OutputBytes int64
	// BytesIn and BytesOut were sent there and back.
	BytesIn, BytesOut int64
	// Result is how it ended.
	Result offload.Result
	// Ended is when.
	Ended time.Time
}
