package localstore

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// proofBook remembers, for each path, the one sum that was last proved. It is safe for concurrent use.
type proofBook struct {
	log *slog.Logger

	mu     sync.Mutex // guards all below
	memory map[narinfo.StorePath]proofSum
	db     *sqlite.Conn // nil without a file
}

const (
	maxMemoryProofs = 1 << 17 // some 25 MiB; beyond, any one is forgotten
	proofSchema     = 1
)

// openProofs opens the proof file, or none if path is "". One that is damaged, or of another version, is made anew:
// proofs can be had again.
func openProofs(path string, log *slog.Logger) (*proofBook, error) {
	b := &proofBook{log: log, memory: make(map[narinfo.StorePath]proofSum)}
	if path == "" {
		return b, nil
	}
	db, err := openProofFile(path)
	if code := sqlite.ErrCode(err).ToPrimary(); code == sqlite.ResultNotADB || code == sqlite.ResultCorrupt {
		log.Warn("proof file made anew", "path", path, "reason", err)
		for _, suffix := range []string{"", "-wal", "-shm"} {
			_ = os.Remove(path + suffix)
		}
		db, err = openProofFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("localstore: proof file %q: %w", path, err)
	}
	b.db = db
	return b, nil
}

func openProofFile(path string) (*sqlite.Conn, error) {
	// SQLite would make it readable for all that the umask allows.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	db, err := sqlite.OpenConn(path, sqlite.OpenReadWrite, sqlite.OpenWAL)
	if err != nil {
		return nil, err
	}
	db.SetBusyTimeout(busyTimeout)
	if err := prepareProofFile(db); err != nil {
		_ = db.Close()
		return nil, err
	}
	return db, nil
}

func prepareProofFile(db *sqlite.Conn) error {
	version, err := sqlitex.ResultInt64(db.Prep("pragma user_version"))
	if err != nil {
		return err
	}
	if err := sqlitex.ExecuteTransient(db, "pragma synchronous = normal", nil); err != nil {
		return err
	}
	script := ""
	if version != proofSchema {
		script = "drop table if exists proofs;"
	}
	script += fmt.Sprintf(`create table if not exists proofs (path text primary key, sum blob not null) without rowid;
pragma user_version = %d;`, proofSchema)
	return sqlitex.ExecuteScript(db, script, nil)
}

// has reports whether sum is proved for path, and whether the file says so.
func (b *proofBook) has(path narinfo.StorePath, sum proofSum) (proved, kept bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.memory[path] == sum {
		return true, false
	}
	if b.db == nil {
		return false, false
	}
	b.try("read", `select 1 from proofs where path = ? and sum = ?`, func() { proved, kept = true, true }, path, sum)
	return proved, kept
}

// put remembers a proof; in the file only if keep is set and there is one, which it reports.
func (b *proofBook) put(path narinfo.StorePath, sum proofSum, keep bool) (kept bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if keep && b.db != nil {
		if b.try("write", `insert or replace into proofs (path, sum) values (?, ?)`, nil, path, sum) {
			delete(b.memory, path)
			return true
		}
	}
	if _, there := b.memory[path]; !there && len(b.memory) >= maxMemoryProofs {
		for other := range b.memory {
			delete(b.memory, other)
			break
		}
	}
	b.memory[path] = sum
	return false
}

// try runs a statement. Its failure costs no more than a hash, so it is logged and that is all.
func (b *proofBook) try(doing, query string, row func(), path narinfo.StorePath, sum proofSum) bool {
	err := eachRow(b.db, query, func(*sqlite.Stmt) { row() }, string(path), sum[:])
	if err != nil {
		b.log.Warn("proof file failed", "doing", doing, "reason", err)
	}
	return err == nil
}

func (b *proofBook) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.db == nil {
		return nil
	}
	err := b.db.Close()
	b.db = nil
	return err
}

// recall marks a new object as proved if a proof of it is remembered.
func (s *Store) recall(o *object) {
	proved, kept := s.proofs.has(o.path, o.sum)
	o.kept.Store(kept)
	if proved {
		o.proved.Store(true)
		s.objects.add(o)
	}
}

// record remembers that o's files were hashed, beginning at start, and found right and unchanged.
// It does nothing if a file is so young that a change might not show.
func (s *Store) record(o *object, start time.Time) {
	if !o.settledBefore(start, s.options.ages.proof) {
		return
	}
	o.proved.Store(true)
	s.objects.add(o)
	s.keep(o)
}

// keep writes a proof to the file when it is old enough. It is called whenever a proof is used.
func (s *Store) keep(o *object) {
	if o.kept.Load() {
		return
	}
	old := o.settledBefore(time.Now(), s.options.ages.keep)
	if kept := s.proofs.put(o.path, o.sum, old); kept || s.options.ProofFile == "" {
		o.kept.Store(true)
	}
}
