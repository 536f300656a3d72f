package localstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"zombiezen.com/go/sqlite"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
)

// One statement, and so one snapshot: a path must not lose its references to a deletion between two statements.
const infoQuery = `
select v.path, v.hash, v.narSize, v.deriver, v.sigs, v.ca,
  (select group_concat(r.path, ' ') from Refs f join ValidPaths r on r.id = f.reference where f.referrer = v.id)
from ValidPaths v where v.path >= ? order by v.path limit 1`

// dbSource answers from the database of one store directory.
type dbSource struct {
	db       *database
	infos    infoCache
	storeDir string
}

func newDBSource(path, storeDir string) *dbSource {
	return &dbSource{db: newDatabase(path), infos: infoCache{path: path}, storeDir: storeDir}
}

func (s *dbSource) close() {
	s.infos.close()
	s.db.close()
}

// row is a path as it stands in the database.
type row struct {
	path, hash, deriver, sigs, ca, references string
	narSize                                   int64
}

func (s *dbSource) info(ctx context.Context, hash narinfo.HashPart, within time.Duration) (*narinfo.Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	info, kept, edition := s.infos.get(hash, within)
	if !kept {
		var err error
		info, err = s.query(ctx, hash)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		s.infos.put(hash, info, edition)
	}
	if info == nil {
		return nil, fmt.Errorf("localstore: path with hash part %q: %w", hash, store.ErrNotFound)
	}
	return info.Clone(), nil
}

// query asks the database itself.
func (s *dbSource) query(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	prefix := s.storeDir + "/" + string(hash)
	var r row
	err := s.db.query(ctx, func(c *sqlite.Conn) error {
		r = row{}
		return oneRow(c, infoQuery, func(stmt *sqlite.Stmt) {
			r = row{
				path: stmt.ColumnText(0), hash: stmt.ColumnText(1), narSize: stmt.ColumnInt64(2),
				deriver: stmt.ColumnText(3), sigs: stmt.ColumnText(4), ca: stmt.ColumnText(5),
				references: stmt.ColumnText(6),
			}
		}, prefix)
	})
	if err != nil {
		return nil, err
	}
	if rest, ok := strings.CutPrefix(r.path, prefix); !ok || !strings.HasPrefix(rest, "-") {
		return nil, store.ErrNotFound
	}
	info, err := r.info()
	if err != nil {
		return nil, fmt.Errorf("localstore: Nix's database: path %q: %w", r.path, err)
	}
	return info, nil
}

func (r *row) info() (*narinfo.Info, error) {
	info := &narinfo.Info{NarSize: r.narSize}
	var err error
	if info.StorePath, err = narinfo.ParseStorePath(r.path); err != nil {
		return nil, err
	}
	if info.NarHash, err = narinfo.ParseHash(r.hash); err != nil {
		return nil, err
	}
	if info.NarHash.Type() != narinfo.SHA256 || info.NarSize <= 0 {
		return nil, fmt.Errorf("no SHA-256 hash or no size of its archive")
	}
	for path := range strings.FieldsSeq(r.references) {
		ref, err := narinfo.ParseStorePath(path)
		if err != nil {
			return nil, err
		}
		info.References = append(info.References, ref)
	}
	slices.Sort(info.References)
	// A deriver is a remark that nothing rests on: one that is no store path (old Nix wrote "unknown-deriver") is none.
	if deriver, err := narinfo.ParseStorePath(r.deriver); err == nil {
		info.Deriver = deriver
	}
	for sig := range strings.FieldsSeq(r.sigs) {
		info.Signatures = append(info.Signatures, signing.Signature(sig))
	}
	if r.ca != "" {
		if info.CA, err = narinfo.ParseContentAddress(r.ca); err != nil {
			return nil, err
		}
	}
	return info, nil
}

// pageSize is how many paths one query of a list yields, so that no caller's loop holds a connection.
const pageSize = 1000

// Each lists paths behind the second parameter, in order.
var listQueries = map[pathList]string{
	listAll: `select path from ValidPaths where path > ?2 and ?1 = '' order by path limit ?3`,
	listReferrers: `
select r.path from ValidPaths v join Refs f on f.reference = v.id join ValidPaths r on r.id = f.referrer
where v.path = ?1 and r.id != v.id and r.path > ?2 order by r.path limit ?3`,
	listDerived: `select path from ValidPaths where deriver = ?1 and path > ?2 order by path limit ?3`,
}

func (s *dbSource) page(
	ctx context.Context, l pathList, key, after narinfo.StorePath,
) (paths []narinfo.StorePath, more bool, err error) {
	var texts []string
	err = s.db.query(ctx, func(c *sqlite.Conn) error {
		texts = texts[:0]
		return eachRow(c, listQueries[l], func(stmt *sqlite.Stmt) { texts = append(texts, stmt.ColumnText(0)) },
			string(key), string(after), int64(pageSize))
	})
	if err != nil {
		return nil, false, err
	}
	for _, text := range texts {
		path, err := narinfo.ParseStorePath(text)
		if err != nil {
			return nil, false, fmt.Errorf("localstore: Nix's database: %w", err)
		}
		paths = append(paths, path)
	}
	return paths, len(paths) == pageSize, nil
}

// since returns the next paths that were registered after the one with the given number, and the last one's number.
func (s *dbSource) since(ctx context.Context, id int64) (paths []narinfo.StorePath, last int64, err error) {
	err = s.db.query(ctx, func(c *sqlite.Conn) error {
		paths, last = nil, id
		return eachRow(c, `select id, path from ValidPaths where id > ? order by id limit ?`, func(stmt *sqlite.Stmt) {
			last = stmt.ColumnInt64(0)
			paths = append(paths, narinfo.StorePath(stmt.ColumnText(1)))
		}, id, int64(pageSize))
	})
	return paths, last, err
}

// oneRow calls f with the first row, if there is one.
func oneRow(c *sqlite.Conn, query string, f func(*sqlite.Stmt), args ...any) error {
	done := false
	return eachRow(c, query, func(stmt *sqlite.Stmt) {
		if !done {
			f(stmt)
		}
		done = true
	}, args...)
}

// eachRow runs a prepared statement to its end, which also ends its snapshot. args are strings, int64s and []bytes.
func eachRow(c *sqlite.Conn, query string, f func(*sqlite.Stmt), args ...any) error {
	stmt, err := c.Prepare(query)
	if err != nil {
		return err
	}
	for i, arg := range args {
		switch arg := arg.(type) {
		case string:
			stmt.BindText(i+1, arg)
		case int64:
			stmt.BindInt64(i+1, arg)
		case []byte:
			stmt.BindBytes(i+1, arg)
		default:
			panic(fmt.Sprintf("localstore: internal error: statement with a %T", arg))
		}
	}
	for {
		more, err := stmt.Step()
		if err != nil {
			_ = stmt.Reset()
			return err
		}
		if !more {
			return stmt.Reset()
		}
		f(stmt)
	}
}
