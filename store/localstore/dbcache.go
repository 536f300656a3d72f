package localstore

import (
	"sync"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// maxInfos is how many paths' metadata is kept in each of two generations, at about a KiB a path.
const maxInfos = 4 << 10

// infoCache keeps what the database says of paths until somebody commits something to it.
// A connection of its own is asked about that: for SQLite's data_version, which changes with every commit of others, and
// whether the files are still those that it was made for. It is safe for concurrent use.
type infoCache struct {
	path string

	mu         sync.Mutex // guards all below
	watch      *conn      // nil: nothing is kept
	retry      time.Time  // when to try to have a watch again
	looked     time.Time  // when watch last answered
	version    int64      // data_version when watch last told
	files      fileStamps // before it did
	quiet      bool       // who commits anything changes files
	edition    uint64     // counts the versions, never 0
	young, old map[narinfo.HashPart]*narinfo.Info
	closed     bool
}

// get returns what is kept of a path: nil where the database has none such. The caller must not change it.
// It was true at some time within the given one before now.
// Where nothing is kept it returns the edition of the database as it is now, for put; 0 means that nothing may be kept.
func (c *infoCache) get(hash narinfo.HashPart, within time.Duration) (info *narinfo.Info, kept bool, edition uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.look(within) {
		return nil, false, 0
	}
	if info, kept = c.young[hash]; kept {
		return info, true, c.edition
	}
	if info, kept = c.old[hash]; kept {
		c.keep(hash, info)
	}
	return info, kept, c.edition
}

// put keeps what a query found that began when the database had the given edition, if it has it still.
func (c *infoCache) put(hash narinfo.HashPart, info *narinfo.Info, edition uint64) {
	if edition == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.look(0) && c.edition == edition {
		c.keep(hash, info)
	}
}

func (c *infoCache) keep(hash narinfo.HashPart, info *narinfo.Info) {
	if c.young == nil || len(c.young) >= maxInfos {
		c.young, c.old = make(map[narinfo.HashPart]*narinfo.Info), c.young
	}
	c.young[hash] = info
}

// look begins a new edition if the database has changed. It reports false if that can't be told.
func (c *infoCache) look(within time.Duration) bool {
	now := time.Now()
	if c.watch != nil && now.Sub(c.looked) < within {
		return true
	}
	files, fresh := c.watched()
	if !fresh { // from before or behind the writer that came or went
		files, fresh = c.watched()
	}
	if !fresh {
		return false
	}
	if !c.quiet || files != c.files {
		if err := c.compare(files, now); err != nil {
			c.drop()
			return false
		}
	}
	c.looked = now
	return true
}

// watched looks at the files, and gives watch up if they are not those that it was made for.
func (c *infoCache) watched() (files fileStamps, fresh bool) {
	if c.watch == nil && !c.open() {
		return files, false
	}
	if files, fresh = c.watch.look(); !fresh {
		c.drop()
	}
	return files.written(), fresh
}

// compare begins a new edition if SQLite says that the database has changed. files are as they were a moment before.
func (c *infoCache) compare(files fileStamps, now time.Time) error {
	version, err := c.readVersion()
	if err != nil {
		return err
	}
	c.files, c.quiet = files, false
	if version == c.version {
		return nil
	}
	c.young, c.old = nil, nil
	c.version = version
	c.edition++
	if !files.settled(now) {
		return nil
	}
	return c.listen()
}

// listen finds out whether the database is quiet.
//
// While nobody has it open for writing, SQLite does not trust the -shm file, and takes an empty -wal for a change at each
// query: that is how to tell. A commit that is under way could be one of two such changes.
// Then nothing can be committed but by somebody who opens the database and writes to its files.
func (c *infoCache) listen() error {
	for range 2 {
		version, err := c.readVersion()
		if err != nil || version == c.version {
			return err
		}
		c.version = version
	}
	files, fresh := c.watch.look()
	c.quiet = fresh && files.written() == c.files
	return nil
}

// readVersion returns a number that any commit changes. A database that is read as immutable has one for ever.
func (c *infoCache) readVersion() (version int64, err error) {
	if c.watch.mode == modeImmutable {
		return 0, nil
	}
	err = eachRow(c.watch.sq, "pragma data_version", func(stmt *sqlite.Stmt) { version = stmt.ColumnInt64(0) })
	return version, err
}

// open makes a connection to watch with. Beside a database without WAL there is none: its readers need locks.
func (c *infoCache) open() bool {
	if c.closed || time.Now().Before(c.retry) {
		return false
	}
	c.retry = time.Now().Add(databaseRetry)
	watch, err := openConn(c.path)
	if err != nil {
		return false
	}
	if watch.mode == modeRollback {
		watch.close()
		return false
	}
	c.watch, c.version, c.retry = watch, -1, time.Time{}
	return true
}

func (c *infoCache) drop() {
	c.watch.close()
	c.watch, c.quiet = nil, false
}

func (c *infoCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.watch != nil {
		c.drop()
	}
}
