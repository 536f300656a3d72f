package localstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

// The tables and columns of Nix's schema 10 that are the same in Nix 2.8, 2.26 and 2.34.
var schema = []string{
	`create table ValidPaths (id integer primary key autoincrement not null, path text unique not null,
  hash text not null, registrationTime integer not null, deriver text, narSize integer, ultimate integer,
  sigs text, ca text)`,
	`create table Refs (referrer integer not null, reference integer not null, primary key (referrer, reference),
  foreign key (referrer) references ValidPaths(id) on delete cascade,
  foreign key (reference) references ValidPaths(id) on delete restrict)`,
	`create index IndexReferrer on Refs(referrer)`,
	`create index IndexReference on Refs(reference)`,
	`create trigger DeleteSelfRefs before delete on ValidPaths begin
  delete from Refs where referrer = old.id and reference = old.id; end`,
}

// madeStore is a store under a root folder, made without Nix.
type madeStore struct {
	t    testing.TB
	root string
	path string // of the database
	n    int
}

// tree is a path's content: relative name to content; a name that ends in "/" is an empty folder, content that begins
// with "->" a symlink, with "#!" an executable. "" alone is a regular file.
type tree map[string]string

func newMadeStore(t testing.TB, journal string) *madeStore {
	t.Helper()
	root, err := os.MkdirTemp("", "localstore-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(root, 0o755))
	t.Cleanup(func() { os.RemoveAll(root) })
	m := &madeStore{t: t, root: root, path: filepath.Join(root, "nix/var/nix/db/db.sqlite")}
	require.NoError(t, os.MkdirAll(filepath.Dir(m.path), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "nix/store"), 0o755))
	m.change(func(w *writer) {
		w.exec("pragma journal_mode = " + journal)
		for _, s := range schema {
			w.exec(s)
		}
	})
	return m
}

// change calls f with a writer that is then closed cleanly.
func (m *madeStore) change(f func(*writer)) {
	m.t.Helper()
	w := m.writer()
	f(w)
	w.close()
}

func (m *madeStore) options() *localstore.Options {
	o := &localstore.Options{Root: m.root, NoDaemon: true}
	localstore.SetAges(o, 1, 1)
	return o
}

func (m *madeStore) open(o *localstore.Options) *localstore.Store {
	m.t.Helper()
	if o == nil {
		o = m.options()
	}
	s, err := localstore.Open(m.t.Context(), o)
	require.NoError(m.t, err)
	m.t.Cleanup(func() { require.NoError(m.t, s.Close()) })
	return s
}

func (m *madeStore) file(p narinfo.StorePath, name string) string {
	return filepath.Join(m.root, "nix/store", p.Base(), name)
}

// add writes a path's files and registers it.
func (m *madeStore) add(name string, content tree) *narinfo.Info {
	m.t.Helper()
	info := m.write(name, content)
	m.change(func(w *writer) { w.register(info) })
	return info
}

// write writes a path's files and returns what a registration says.
func (m *madeStore) write(name string, content tree) *narinfo.Info {
	m.t.Helper()
	m.n++
	path, err := narinfo.NewStorePath("/nix/store", fmt.Sprintf("%032d-%s", m.n, name))
	require.NoError(m.t, err)
	m.writeTree(path, content)
	return m.infoOf(path)
}

func (m *madeStore) writeTree(path narinfo.StorePath, content tree) {
	m.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(content)) {
		file, text := m.file(path, name), content[name]
		require.NoError(m.t, os.MkdirAll(filepath.Dir(file), 0o755))
		switch {
		case strings.HasSuffix(name, "/"):
			require.NoError(m.t, os.MkdirAll(file, 0o755))
		case strings.HasPrefix(text, "->"):
			require.NoError(m.t, os.Symlink(text[2:], file))
		case strings.HasPrefix(text, "#!"):
			require.NoError(m.t, os.WriteFile(file, []byte(text), 0o755))
		default:
			require.NoError(m.t, os.WriteFile(file, []byte(text), 0o644))
		}
	}
}

func (m *madeStore) infoOf(path narinfo.StorePath) *narinfo.Info {
	m.t.Helper()
	dump := m.dump(path)
	sum := sha256.Sum256(dump)
	hash, err := narinfo.NewHash(narinfo.SHA256, sum[:])
	require.NoError(m.t, err)
	return &narinfo.Info{StorePath: path, NarHash: hash, NarSize: int64(len(dump))}
}

func (m *madeStore) dump(path narinfo.StorePath) []byte {
	m.t.Helper()
	var b bytes.Buffer
	require.NoError(m.t, nar.Pack(context.Background(), &b, m.file(path, "")))
	return b.Bytes()
}

func (w *writer) register(info *narinfo.Info) {
	w.t.Helper()
	var sigs []string
	for _, s := range info.Signatures {
		sigs = append(sigs, string(s))
	}
	nullable := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	w.exec(`insert into ValidPaths (path, hash, registrationTime, deriver, narSize, sigs, ca)
values (?, ?, 1, ?, ?, ?, ?)`,
		info.StorePath, "sha256:"+info.NarHash.Base16(), nullable(string(info.Deriver)),
		info.NarSize, nullable(strings.Join(sigs, " ")), nullable(string(info.CA)))
	for _, ref := range info.References {
		w.exec(`insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b where a.path = ? and b.path = ?`,
			info.StorePath, ref)
	}
}

func (w *writer) unregister(path narinfo.StorePath) {
	w.t.Helper()
	w.exec("pragma foreign_keys = 1")
	w.exec(`delete from ValidPaths where path = ?`, path)
}

func read(t testing.TB, s *localstore.Store, info *narinfo.Info) ([]byte, error) {
	t.Helper()
	r, err := s.Open(t.Context(), info)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// readers are the two ways to copy an archive.
var readers = map[string]func(io.Writer, io.Reader) (int64, error){
	"Read":    func(w io.Writer, r io.Reader) (int64, error) { return io.Copy(w, struct{ io.Reader }{r}) },
	"WriteTo": io.Copy,
}

// counter counts walks and whole-path hashes.
type counter struct{ scanned, hashed, wrong atomic.Int64 }

func (c *counter) trace() *localstore.Trace {
	return &localstore.Trace{
		Scanned: func(narinfo.StorePath, error) { c.scanned.Add(1) },
		Hashed: func(_ narinfo.StorePath, _ int64, err error) {
			c.hashed.Add(1)
			if err != nil {
				c.wrong.Add(1)
			}
		},
	}
}

func logTo(b *lockedBuffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func (m *madeStore) pathNumber(n int) narinfo.StorePath {
	return narinfo.StorePath(fmt.Sprintf("/nix/store/%032d-x", n))
}

func collect(t testing.TB, paths iter.Seq2[narinfo.StorePath, error]) (all []narinfo.StorePath) {
	t.Helper()
	for path, err := range paths {
		require.NoError(t, err)
		all = append(all, path)
	}
	return all
}
