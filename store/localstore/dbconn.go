package localstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/voidnxlab/nixtrap/store"
)

// mode is how a connection reads the database.
type mode uint8

const (
	modeWAL       mode = iota + 1 // beside a -wal, which stays for we hold its lock
	modeImmutable                 // there is no -wal, so nobody writes; right only while that is so
	modeRollback                  // SQLite's own locks for each query
)

// stamp identifies a file and, roughly, its content.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // nanoseconds
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{uint64(st.Dev), uint64(st.Ino), st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

func (s stamp) sameFile(t stamp) bool { return s.dev == t.dev && s.ino == t.ino }

// conn is one connection with what must stay true of the files for its answers to be right.
type conn struct {
	path  string
	mode  mode
	sq    *sqlite.Conn
	guard int   // descriptor of the database file, which carries our own lock
	main  stamp // of the database file when the connection was made
	wal   stamp // of the -wal file then, zero if there was none
}

// openConn finds out the database's state under a read lock and opens it accordingly.
func openConn(path string) (*conn, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDatabase, &fs.PathError{Op: "open", Path: path, Err: err})
	}
	c := &conn{path: path, guard: fd}
	if err := c.open(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *conn) open() error {
	if err := lockShared(c.guard); err != nil {
		return err
	}
	if err := c.inspect(); err != nil {
		return err
	}
	if c.mode == modeRollback {
		unlock(c.guard) // each query takes it again
	}
	query := "?mode=ro&readonly_shm=1"
	if c.mode == modeImmutable {
		query = "?mode=ro&immutable=1"
	}
	var err error
	c.sq, err = sqlite.OpenConn("file:"+(&url.URL{Path: c.path}).EscapedPath()+query,
		sqlite.OpenReadOnly, sqlite.OpenURI)
	if err != nil {
		return databaseError(err)
	}
	c.sq.SetBusyTimeout(0) // database.query waits instead, without holding our lock
	return databaseError(sqlitex.ExecuteTransient(c.sq, "pragma temp_store = memory", nil))
}

// inspect notes the files' stamps and picks the mode. It is called under the lock.
func (c *conn) inspect() error {
	var st unix.Stat_t
	if err := unix.Fstat(c.guard, &st); err != nil {
		return fmt.Errorf("%w: %w", errDatabase, os.NewSyscallError("fstat", err))
	}
	c.main = stampOf(&st)
	var present bool
	var err error
	if c.wal, present, err = statFile(c.path + "-wal"); err != nil {
		return fmt.Errorf("%w: %w", errDatabase, err)
	}
	if present {
		c.mode = modeWAL
		return nil
	}
	c.mode, err = c.headerMode()
	return err
}

// headerMode reads the file format's version numbers out of the database's header: 1 is rollback, 2 is WAL.
func (c *conn) headerMode() (mode, error) {
	var b [2]byte
	n, err := unix.Pread(c.guard, b[:], 18)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: %w", errDatabase, os.NewSyscallError("pread", err))
	case n == len(b) && b == [2]byte{2, 2}:
		return modeImmutable, nil
	}
	return modeRollback, nil
}

// fresh reports whether the files are still those that the connection was made for.
func (c *conn) fresh() bool {
	_, fresh := c.look()
	return fresh
}

// fileStamps are those of a database and of its -wal file.
type fileStamps struct{ main, wal stamp }

// settled reports whether the file systems' clocks have ticked since the last write, so that the next one will show.
func (f fileStamps) settled(now time.Time) bool {
	const tick = 2 * time.Second
	return now.Sub(time.Unix(0, max(f.main.mtime, f.wal.mtime))) > tick
}

// written leaves out what changes without a write: SQLite as root sets a -wal's owner whenever it opens one.
func (f fileStamps) written() fileStamps {
	f.main.ctime, f.wal.ctime = 0, 0
	return f
}

// look is fresh, and returns what it saw.
func (c *conn) look() (now fileStamps, fresh bool) {
	var mainPresent, walPresent bool
	var err, walErr error
	now.main, mainPresent, err = statFile(c.path)
	now.wal, walPresent, walErr = statFile(c.path + "-wal")
	if err != nil || walErr != nil || !mainPresent || !now.main.sameFile(c.main) {
		return now, false
	}
	switch c.mode {
	case modeWAL:
		return now, walPresent && now.wal.sameFile(c.wal)
	case modeImmutable:
		return now, !walPresent && now.main == c.main
	}
	return now, !walPresent
}

// run calls f, whose errors are SQLite's or ErrNotFound.
// Its answer counts only if the connection is fresh where it must be.
func (c *conn) run(ctx context.Context, f func(*sqlite.Conn) error) error {
	if c.mode == modeRollback {
		if err := lockShared(c.guard); err != nil {
			return err
		}
		defer unlock(c.guard)
		if m, err := c.headerMode(); err != nil || m != modeRollback || !c.fresh() {
			return errAgain
		}
	}
	c.sq.SetInterrupt(ctx.Done())
	err := f(c.sq)
	c.sq.SetInterrupt(nil)
	if c.mode == modeImmutable && !c.fresh() {
		return errAgain
	}
	if errors.Is(err, store.ErrNotFound) {
		return err
	}
	return databaseError(err)
}

func (c *conn) close() {
	if c.sq != nil {
		_ = c.sq.Close()
	}
	_ = unix.Close(c.guard)
}

func statFile(path string) (s stamp, present bool, err error) {
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); {
	case err == nil:
		return stampOf(&st), true, nil
	case errors.Is(err, unix.ENOENT):
		return stamp{}, false, nil
	default:
		return stamp{}, false, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
}

// databaseError marks an error of SQLite's, and tells what may pass from what stays.
func databaseError(err error) error {
	code := sqlite.ErrCode(err)
	switch code.ToPrimary() {
	case sqlite.ResultOK:
		return nil
	case sqlite.ResultBusy, sqlite.ResultLocked, sqlite.ResultProtocol, sqlite.ResultSchema:
		return fmt.Errorf("%w: %v", errAgain, err)
	}
	if code == sqlite.ResultReadOnlyRecovery {
		return fmt.Errorf("%w: %v", errAgain, err)
	}
	return fmt.Errorf("%w: %v", errSQLite, err)
}
