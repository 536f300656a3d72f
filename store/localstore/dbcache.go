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
	version    int64      // data_version when the generations were begun
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
	if c.watch != nil && !c.watch.fresh() {
		c.drop()
	}
	if c.watch == nil && !c.open() {
		return false
	}
	version, err := c.readVersion()
	if err != nil {
		c.drop()
		return false
	}
	if version != c.version {
		c.young, c.old = nil, nil
		c.version = version
		c.edition++
	}
	c.looked = now
	return true
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
	c.watch = nil
}

func (c *infoCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.watch != nil {
		c.drop()
	}
}
