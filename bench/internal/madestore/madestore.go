// Package madestore makes a Nix store without Nix, as large as one likes: a folder with Nix's database and a few real
// paths, whose files are sparse, among many that are in the database alone.
//
// It serves to see what a server's memory and its start depend on. Whoever opens it names its folders:
// local?store=/nix/store&state=STATE&real=REAL, see [Store.URI].
package madestore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/voidnxlab/nixtrap/bench/internal/workload"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// schema is what Nix's schema 10 has in common in Nix 2.8, 2.26 and 2.34.
const schema = `create table ValidPaths (id integer primary key autoincrement not null, path text unique not null,
  hash text not null, registrationTime integer not null, deriver text, narSize integer, ultimate integer,
  sigs text, ca text);
create table Refs (referrer integer not null, reference integer not null, primary key (referrer, reference),
  foreign key (referrer) references ValidPaths(id) on delete cascade,
  foreign key (reference) references ValidPaths(id) on delete restrict);
create index IndexReferrer on Refs(referrer);
create index IndexReference on Refs(reference);
create trigger DeleteSelfRefs before delete on ValidPaths begin
  delete from Refs where referrer = old.id and reference = old.id; end;`

// Store is a made store.
type Store struct {
	Dir string // a folder that must exist and be empty
	// Paths is how many paths are in the database alone.
	Paths int
	// Files is how many real paths there are, each one file of FileSize bytes, a multiple of 8.
	Files    int
	FileSize int64

	// Real are the real paths, once Make is done.
	Real []workload.Path
}

// URI is the store's, as Nix's --store takes it.
func (s *Store) URI() string {
	return fmt.Sprintf("local?store=%s&state=%s&real=%s", narinfo.DefaultStoreDir, s.state(), s.real())
}

func (s *Store) state() string { return filepath.Join(s.Dir, "var/nix") }
func (s *Store) real() string  { return filepath.Join(s.Dir, "store") }

// Path returns path i of those that are in the database alone.
func (s *Store) Path(i int) string {
	return fmt.Sprintf("%s/%032d-path-%d", narinfo.DefaultStoreDir, i, i)
}

// Make writes everything.
func (s *Store) Make(ctx context.Context) (err error) {
	for _, dir := range []string{filepath.Join(s.state(), "db"), s.real()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := s.makeFiles(ctx); err != nil {
		return err
	}
	db, err := sqlite.OpenConn(filepath.Join(s.state(), "db/db.sqlite"), sqlite.OpenCreate|sqlite.OpenReadWrite)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := sqlitex.ExecuteTransient(db, "pragma journal_mode = wal", nil); err != nil {
		return err
	}
	if err := sqlitex.ExecuteScript(db, schema, nil); err != nil {
		return err
	}
	return s.fill(ctx, db)
}

// fill registers the paths, each of those without files with up to five references to earlier ones.
func (s *Store) fill(ctx context.Context, db *sqlite.Conn) (err error) {
	end, err := sqlitex.ImmediateTransaction(db)
	if err != nil {
		return err
	}
	defer end(&err)
	for _, p := range s.Real {
		h, err := narinfo.ParseHash(p.NarHash)
		if err != nil {
			return err
		}
		if err := register(db, p.Path, h.Base16(), p.NarSize); err != nil {
			return err
		}
	}
	for i := range s.Paths {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := register(db, s.Path(i), fmt.Sprintf("%064x", i), 1000); err != nil {
			return err
		}
		id := db.LastInsertRowID()
		for r := 1; r <= min(i, 5); r++ {
			err := sqlitex.Execute(db, `insert into Refs values (?, ?)`, &sqlitex.ExecOptions{Args: []any{id, id - int64(r)}})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func register(db *sqlite.Conn, path, hash16 string, size int64) error {
	return sqlitex.Execute(db, `insert into ValidPaths (path, hash, registrationTime, narSize) values (?, ?, 1, ?)`,
		&sqlitex.ExecOptions{Args: []any{path, "sha256:" + hash16, size}})
}

// makeFiles writes sparse files that differ in their last 8 bytes, so that what is before is hashed once for all.
func (s *Store) makeFiles(ctx context.Context) error {
	if s.Files == 0 {
		return nil
	}
	before := sha256.New()
	head, tail := archiveHead(s.FileSize), archiveTail()
	_, _ = before.Write(head)
	if err := hashZeros(ctx, before, s.FileSize-8); err != nil {
		return err
	}
	for i := range s.Files {
		end := fmt.Appendf(nil, "%08d", i)
		sum, err := before.(hash.Cloner).Clone()
		if err != nil {
			return err
		}
		_, _ = sum.Write(end)
		_, _ = sum.Write(tail)
		digest, err := narinfo.NewHash(narinfo.SHA256, sum.Sum(nil))
		if err != nil {
			return err
		}
		base := fmt.Sprintf("%s-big-%d", digest.Base32()[:32], i)
		if err := s.sparse(filepath.Join(s.real(), base), end); err != nil {
			return err
		}
		s.Real = append(s.Real, workload.Path{
			Path: narinfo.DefaultStoreDir + "/" + base, NarHash: digest.String(),
			NarSize: s.FileSize + int64(len(head)+len(tail)),
		})
	}
	return nil
}

func (s *Store) sparse(file string, end []byte) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(end, s.FileSize-int64(len(end)))
	return errors.Join(err, f.Close())
}

func hashZeros(ctx context.Context, w io.Writer, n int64) error {
	zeros := make([]byte, 1<<20)
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := zeros[:min(n, int64(len(zeros)))]
		if _, err := w.Write(part); err != nil {
			return err
		}
		n -= int64(len(part))
	}
	return nil
}

// archiveHead is what an archive of one file has before the content.
func archiveHead(size int64) []byte {
	var b []byte
	for _, word := range []string{"nix-archive-1", "(", "type", "regular", "contents"} {
		b = appendString(b, word)
	}
	return binary.LittleEndian.AppendUint64(b, uint64(size))
}

// archiveTail is what comes behind content whose length is a multiple of 8.
func archiveTail() []byte { return appendString(nil, ")") }

func appendString(b []byte, s string) []byte {
	b = append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
	return append(b, make([]byte, -len(s)&7)...)
}
