package localstore_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// files lists what lies beside a database, with owners and modes.
func (m *madeStore) files() (all []string) {
	m.t.Helper()
	entries, err := os.ReadDir(filepath.Dir(m.path))
	require.NoError(m.t, err)
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func (m *madeStore) contents() map[string]string {
	m.t.Helper()
	all := make(map[string]string)
	for _, name := range m.files() {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(m.path), name))
		require.NoError(m.t, err)
		all[name] = string(b)
	}
	return all
}

// dbFixture is a database of which an old path is in the main file and a new one may be in the -wal.
type dbFixture struct {
	*madeStore
	old, new *narinfo.Info
}

func newFixture(t *testing.T, journal string) *dbFixture {
	m := newMadeStore(t, journal)
	return &dbFixture{m, m.add("old", tree{"": "old"}), m.write("new", tree{"": "new"})}
}

func (f *dbFixture) addNew() *writer {
	w := f.writer()
	w.register(f.new)
	return w
}

// killed leaves -wal and -shm as a writer does that was killed before a checkpoint.
func (f *dbFixture) killed() { f.addNew().kill() }

// persistent leaves an empty -wal and a -shm, as Nix 2.26 and 2.34 do.
func (f *dbFixture) persistent() {
	w := f.addNew()
	w.exec("pragma wal_checkpoint(truncate)")
	w.kill()
	st, err := os.Stat(f.path + "-wal")
	require.NoError(f.t, err)
	require.Zero(f.t, st.Size())
}

// Each row is a state of the files: what a reader sees in it, as the owner and as another user.
// It leaves the files as they were, to the byte.
func TestDatabaseStates(t *testing.T) {
	const yes, no, fails = "yes", "no", "error"
	for _, row := range []struct {
		name         string
		journal      string
		prepare      func(*dbFixture)
		owner, other string // what is answered about the new path
	}{
		{"no -wal and no -shm", "wal", func(f *dbFixture) { f.addNew().close() }, yes, yes},
		{"an empty -wal and a -shm", "wal", (*dbFixture).persistent, yes, yes},
		{"a writer is running", "wal", func(f *dbFixture) { f.addNew() }, yes, yes},
		{"a writer is running, -shm 0666", "wal", func(f *dbFixture) {
			f.addNew()
			require.NoError(t, os.Chmod(f.path+"-shm", 0o666))
		}, yes, yes},
		{"a writer was killed", "wal", (*dbFixture).killed, yes, yes},
		{"-shm 0600", "wal", func(f *dbFixture) {
			f.addNew()
			require.NoError(t, os.Chmod(f.path+"-shm", 0o600))
		}, yes, fails},
		{"-shm gone, -wal left", "wal", func(f *dbFixture) {
			f.killed()
			require.NoError(t, os.Remove(f.path+"-shm"))
		}, fails, fails},
		{"database 0600", "wal", func(f *dbFixture) {
			f.addNew().close()
			require.NoError(t, os.Chmod(f.path, 0o600))
		}, yes, fails},
		{"folder 0777, no -wal and no -shm", "wal", func(f *dbFixture) {
			f.addNew().close()
			require.NoError(t, os.Chmod(filepath.Dir(f.path), 0o777))
		}, yes, yes},
		{"folder 0555, no -wal and no -shm", "wal", func(f *dbFixture) {
			f.addNew().close()
			require.NoError(t, os.Chmod(filepath.Dir(f.path), 0o555))
		}, yes, yes},
		{"rollback journal", "delete", func(f *dbFixture) { f.addNew().close() }, yes, yes},
		{"rollback journal, a writer between transactions", "delete", func(f *dbFixture) { f.addNew() }, yes, yes},
		{"rollback journal, a writer in a transaction", "delete", func(f *dbFixture) {
			w := f.writer()
			w.exec("begin immediate")
			w.register(f.new)
		}, no, no},
		{"rollback journal, folder 0777", "delete", func(f *dbFixture) {
			f.addNew().close()
			require.NoError(t, os.Chmod(filepath.Dir(f.path), 0o777))
		}, yes, yes},
	} {
		for who, want := range map[string]string{"owner": row.owner, "other": row.other} {
			t.Run(row.name+"/"+who, func(t *testing.T) {
				f := newFixture(t, row.journal)
				row.prepare(f)
				before := f.contents()
				r := f.reader(who == "other")
				answer := r.has(f.new.StorePath)
				require.Equal(t, want, strings.SplitN(answer, ":", 2)[0], answer)
				if want != fails {
					require.Equal(t, "yes", r.has(f.old.StorePath))
				}
				r.close()
				require.Equal(t, before, f.contents())
			})
		}
	}
}

func TestReaderFollowsTheDatabase(t *testing.T) {
	for _, row := range []struct {
		name    string
		journal string
		change  func(*dbFixture)
		want    string
	}{
		{"a writer comes, and goes", "wal", func(f *dbFixture) { f.addNew().close() }, "yes"},
		{"a writer comes, and stays", "wal", func(f *dbFixture) { f.addNew() }, "yes"},
		{"a writer comes, and is killed", "wal", (*dbFixture).killed, "yes"},
		{"two writers come and go", "wal", func(f *dbFixture) {
			f.writer().close()
			f.addNew().close()
		}, "yes"},
		{"a checkpoint", "wal", (*dbFixture).persistent, "yes"},
		{"a writer comes, and goes, rollback journal", "delete", func(f *dbFixture) { f.addNew().close() }, "yes"},
		{"rollback journal becomes WAL", "delete", func(f *dbFixture) {
			w := f.writer()
			w.exec("pragma journal_mode = wal")
			w.register(f.new)
			w.close()
		}, "yes"},
		{"replaced by another database", "wal", func(f *dbFixture) {
			g := newFixture(t, "wal")
			g.addNew().close()
			require.NoError(t, os.Rename(g.path, f.path))
		}, "yes"},
		{"deleted", "wal", func(f *dbFixture) {
			for _, suffix := range []string{"", "-wal", "-shm"} {
				if err := os.Remove(f.path + suffix); err != nil {
					require.ErrorIs(t, err, fs.ErrNotExist)
				}
			}
		}, "error"},
	} {
		for who, other := range map[string]bool{"owner": false, "other": true} {
			t.Run(row.name+"/"+who, func(t *testing.T) {
				f := newFixture(t, row.journal)
				r := f.reader(other)
				require.Equal(t, "yes", r.has(f.old.StorePath))
				require.Equal(t, "no", r.has(f.new.StorePath))
				row.change(f)
				for range 2 {
					answer := r.has(f.new.StorePath)
					require.Equal(t, row.want, strings.SplitN(answer, ":", 2)[0], answer)
				}
			})
		}
	}
}

// As root a careless reader of a WAL database without -wal makes both files, and leaves them.
func TestNothingIsLeftBeside(t *testing.T) {
	f := newFixture(t, "wal")
	before := f.files()
	require.Equal(t, []string{"db.sqlite"}, before)
	r := f.reader(false)
	for range 20 {
		require.Equal(t, "yes", r.has(f.old.StorePath))
		f.change(func(w *writer) { w.exec("update ValidPaths set registrationTime = registrationTime + 1") })
	}
	r.close()
	// What was left is the last writer's, as beside any reader; the next one removes it.
	f.change(func(w *writer) { w.exec("update ValidPaths set registrationTime = 1") })
	require.Equal(t, before, f.files())
}
