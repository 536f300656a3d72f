package bucketstore_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/sqlite"
	"github.com/voidnxlab/nixtrap/store/bucketstore/gc"
)

// operated is a bucket with its catalog, and inboxes of its caches.
type operated struct {
	dir     string
	files   *bucketstore.Directory
	catalog *catalog.Catalog
	inboxes map[string]*bucketstore.Inbox
	ahead   atomic.Int64 // nanoseconds, of the catalog's clock
}

func operate(t *testing.T, caches ...string) *operated {
	t.Helper()
	o := &operated{dir: t.TempDir(), inboxes: make(map[string]*bucketstore.Inbox)}
	var err error
	o.files, err = bucketstore.OpenDirectory(o.dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, o.files.Close()) })
	o.openCatalog(t)
	for _, name := range append([]string{""}, caches...) {
		s, err := bucketstore.CreateFiles(t.Context(), o.files, narinfo.CacheInfo{}, &bucketstore.Options{Cache: name})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		o.inboxes[name] = bucketstore.NewInbox(s, o.catalog, nil)
	}
	return o
}

// openCatalog opens a new catalog.
func (o *operated) openCatalog(t *testing.T) {
	t.Helper()
	c, err := sqlite.OpenFile(t.Context(), filepath.Join(t.TempDir(), "catalog"), &catalog.Options{
		Now: func() time.Time { return time.Now().Add(time.Duration(o.ahead.Load())) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	o.catalog = c.Catalog
}

// pushed is a path with its archive.
type pushed struct {
	info    *narinfo.Info
	archive []byte
}

func (p pushed) key() string { return string(p.info.StorePath.HashPart()) + ".narinfo" }

// newPath makes a path of one file, compressed as named.
func newPath(t *testing.T, compression, name string, references ...pushed) pushed {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte(name+strings.Repeat(" content", 100)), 0o644))
	var text bytes.Buffer
	require.NoError(t, nar.Pack(t.Context(), &text, file))
	p := pushed{archive: text.Bytes()}
	url := ".nar"
	if compression == "zstd" {
		e, err := zstd.NewWriter(nil)
		require.NoError(t, err)
		p.archive, url = e.EncodeAll(text.Bytes(), nil), ".nar.zst"
	}
	p.info = &narinfo.Info{Compression: compression, NarHash: sum(t, text.Bytes()), NarSize: int64(text.Len()),
		FileHash: sum(t, p.archive), FileSize: int64(len(p.archive))}
	p.info.URL = "nar/" + p.info.FileHash.Base32() + url
	var err error
	p.info.StorePath, err = narinfo.NewStorePath(narinfo.DefaultStoreDir, sum(t, []byte(name)).Base32()[:32]+"-"+name)
	require.NoError(t, err)
	for _, r := range references {
		p.info.References = append(p.info.References, r.info.StorePath)
	}
	slices.Sort(p.info.References)
	return p
}

func sum(t *testing.T, b []byte) narinfo.Hash {
	t.Helper()
	digest := sha256.Sum256(b)
	h, err := narinfo.NewHash(narinfo.SHA256, digest[:])
	require.NoError(t, err)
	return h
}

func (o *operated) push(t *testing.T, cache string, paths ...pushed) {
	t.Helper()
	for _, p := range paths {
		require.NoError(t, o.send(t.Context(), cache, p), p.info.StorePath)
	}
}

func (o *operated) send(ctx context.Context, cache string, p pushed) error {
	text, err := p.info.MarshalText()
	if err != nil {
		return err
	}
	held, err := o.inboxes[cache].Holds(ctx, p.info.URL)
	if err != nil {
		return err
	}
	if !held {
		if err := o.inboxes[cache].Receive(ctx, "ann", p.info.URL, bytes.NewReader(p.archive)); err != nil {
			return err
		}
	}
	return o.inboxes[cache].Receive(ctx, "ann", p.key(), bytes.NewReader(text))
}

func (o *operated) file(key string) string { return filepath.Join(o.dir, filepath.FromSlash(key)) }

// fsck returns "kind key" of each finding, with an "!" where it was repaired.
func (o *operated) fsck(t *testing.T, options *bucketstore.FsckOptions) []string {
	t.Helper()
	found := []string{}
	for f, err := range bucketstore.Fsck(t.Context(), o.files, o.catalog, options) {
		require.NoError(t, err)
		line := string(f.Kind) + " " + f.Key
		if f.Repaired {
			line += "!"
		}
		found = append(found, line)
	}
	slices.Sort(found)
	return found
}

func (o *operated) list(t *testing.T) []string {
	t.Helper()
	var all []string
	require.NoError(t, fs.WalkDir(os.DirFS(o.dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			all = append(all, name)
		}
		return err
	}))
	return all
}

func TestFsckFindsEachKindOfDamage(t *testing.T) {
	all := &bucketstore.FsckOptions{Content: true}
	repair := &bucketstore.FsckOptions{Content: true, Repair: bucketstore.Kinds()}
	for _, cache := range []string{"", "team"} {
		for name, row := range map[string]struct {
			damage func(t *testing.T, o *operated, lib, app pushed) // of app, which nothing refers to
			found  func(key string, app pushed) []string
			after  func(key string, app pushed) []string // of a repair; nil: nothing
		}{
			"nothing": {func(*testing.T, *operated, pushed, pushed) {}, func(string, pushed) []string { return []string{} }, nil},
			"a narinfo that is none": {
				func(t *testing.T, o *operated, _, app pushed) { o.write(t, cache+"/"+app.key(), []byte("x")) },
				func(key string, _ pushed) []string { return []string{"malformed " + key} },
				func(key string, _ pushed) []string { return []string{"narinfo-absent " + key} },
			},
			"a narinfo about another path": {
				func(t *testing.T, o *operated, lib, app pushed) {
					o.write(t, cache+"/"+app.key(), o.read(t, cache+"/"+lib.key()))
				},
				func(key string, _ pushed) []string { return []string{"malformed " + key} },
				func(key string, _ pushed) []string { return []string{"narinfo-absent " + key} },
			},
			"an absent narinfo": {
				func(t *testing.T, o *operated, _, app pushed) { o.remove(t, cache+"/"+app.key()) },
				func(key string, _ pushed) []string { return []string{"narinfo-absent " + key} }, nil,
			},
			"an absent archive": {
				func(t *testing.T, o *operated, _, app pushed) { o.remove(t, app.info.URL) },
				func(_ string, app pushed) []string { return []string{"archive-absent " + app.info.URL} },
				func(_ string, app pushed) []string { return []string{"archive-absent " + app.info.URL} },
			},
			"a short archive": {
				func(t *testing.T, o *operated, _, app pushed) { o.write(t, app.info.URL, app.archive[1:]) },
				func(_ string, app pushed) []string { return []string{"archive-size " + app.info.URL} },
				func(_ string, app pushed) []string { return []string{"archive-absent " + app.info.URL} },
			},
			"an archive with another byte": {
				func(t *testing.T, o *operated, _, app pushed) {
					wrong := slices.Clone(app.archive)
					wrong[len(wrong)-1] ^= 1
					o.write(t, app.info.URL, wrong)
				},
				func(_ string, app pushed) []string { return []string{"archive-hash " + app.info.URL} },
				func(_ string, app pushed) []string { return []string{"archive-absent " + app.info.URL} },
			},
			"a narinfo with another NarHash": {
				func(t *testing.T, o *operated, lib, app pushed) {
					o.change(t, cache, app, func(i *narinfo.Info) { i.NarHash = lib.info.NarHash })
				},
				func(_ string, app pushed) []string { return []string{"archive-content " + app.info.URL} },
				func(key string, _ pushed) []string { return []string{"narinfo-absent " + key} },
			},
			"a narinfo with other references": {
				func(t *testing.T, o *operated, _, app pushed) {
					o.change(t, cache, app, func(i *narinfo.Info) { i.References = nil })
				},
				func(key string, _ pushed) []string { return []string{"narinfo-differs " + key} }, nil,
			},
			"a narinfo that refers to what is not there": {
				func(t *testing.T, o *operated, _, app pushed) {
					nowhere := newPath(t, "none", "nowhere")
					o.change(t, cache, app, func(i *narinfo.Info) { i.References = []narinfo.StorePath{nowhere.info.StorePath} })
				},
				func(key string, _ pushed) []string {
					return []string{"narinfo-differs " + key, "reference-absent " + key}
				},
				func(key string, _ pushed) []string {
					return []string{"narinfo-differs " + key, "reference-absent " + key}
				},
			},
			"an unknown archive": {
				func(t *testing.T, o *operated, _, _ pushed) { o.write(t, "nar/x", []byte("x")) },
				func(string, pushed) []string { return []string{"archive-unneeded nar/x"} }, nil,
			},
			"an upload whose archive is lost": {
				func(t *testing.T, o *operated, _, _ pushed) {
					p := newPath(t, "zstd", "uploaded")
					require.NoError(t, o.inboxes[cache].Receive(t.Context(), "ann", p.info.URL, bytes.NewReader(p.archive)))
					o.remove(t, p.info.URL)
				},
				func(string, pushed) []string {
					return []string{"archive-absent " + newPath(t, "zstd", "uploaded").info.URL}
				}, nil,
			},
			"an upload whose archive is short": {
				func(t *testing.T, o *operated, _, _ pushed) {
					p := newPath(t, "zstd", "uploaded")
					require.NoError(t, o.inboxes[cache].Receive(t.Context(), "ann", p.info.URL, bytes.NewReader(p.archive)))
					o.write(t, p.info.URL, []byte("x"))
				},
				func(string, pushed) []string {
					return []string{"archive-size " + newPath(t, "zstd", "uploaded").info.URL}
				}, nil,
			},
			"a listing without a narinfo": {
				func(t *testing.T, o *operated, _, _ pushed) {
					o.write(t, cache+"/"+strings.Repeat("0", 32)+".ls", []byte("{}"))
					o.age(t, cache+"/"+strings.Repeat("0", 32)+".ls")
				},
				func(key string, _ pushed) []string {
					return []string{"left-over " + strings.TrimPrefix(cache+"/"+strings.Repeat("0", 32)+".ls", "/")}
				}, nil,
			},
			"an unfinished file": {
				func(t *testing.T, o *operated, _, _ pushed) {
					o.write(t, "nar/.new-1", []byte("x"))
					o.write(t, "nar/.new-2", []byte("x"))
					o.age(t, "nar/.new-1")
				},
				func(string, pushed) []string { return []string{"left-over nar/.new-1"} }, nil,
			},
		} {
			t.Run(cmp.Or(cache, "root")+"/"+name, func(t *testing.T) {
				o := operate(t, "team", "other")
				lib := newPath(t, "none", "lib")
				app := newPath(t, "zstd", "app", lib)
				bystander := newPath(t, "none", "bystander")
				o.push(t, cache, lib, app)
				o.push(t, "other", bystander, lib)
				o.ahead.Store(int64(2 * time.Hour)) // leases are over
				key := strings.TrimPrefix(cache+"/"+app.key(), "/")
				row.damage(t, o, lib, app)
				want := row.found(key, app)
				require.Equal(t, want, o.fsck(t, all))
				before := o.list(t)
				require.Equal(t, want, o.fsck(t, all), "looking changes nothing")
				require.Equal(t, before, o.list(t))
				o.fsck(t, repair)
				after := []string{}
				if row.after != nil {
					after = row.after(key, app)
				}
				require.Equal(t, after, o.fsck(t, all), "after a repair")
				// Whatever it was, pushing the path again mends it.
				if !slices.Contains(after, "reference-absent "+key) {
					o.push(t, cache, lib, app)
					require.Empty(t, o.fsck(t, all), "after a push")
				}
			})
		}
	}
}

func (o *operated) write(t *testing.T, key string, content []byte) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(o.file(key)), 0o755))
	require.NoError(t, os.WriteFile(o.file(key), content, 0o644))
}

func (o *operated) read(t *testing.T, key string) []byte {
	t.Helper()
	text, err := os.ReadFile(o.file(key))
	require.NoError(t, err)
	return text
}

func (o *operated) remove(t *testing.T, key string) {
	t.Helper()
	require.NoError(t, os.Remove(o.file(key)))
}

func (o *operated) age(t *testing.T, key string) {
	t.Helper()
	before := time.Now().Add(-48 * time.Hour)
	require.NoError(t, os.Chtimes(o.file(key), before, before))
}

// change writes a narinfo that says something else.
func (o *operated) change(t *testing.T, cache string, p pushed, f func(*narinfo.Info)) {
	t.Helper()
	info, err := narinfo.Parse(o.read(t, cache+"/"+p.key()))
	require.NoError(t, err)
	f(info)
	text, err := info.MarshalText()
	require.NoError(t, err)
	o.write(t, cache+"/"+p.key(), text)
}

func TestRepairEntersWhatNixHasCopiedIntoTheDirectory(t *testing.T) {
	o := operate(t)
	lib := newPath(t, "none", "lib")
	app := newPath(t, "zstd", "app", lib)
	top := newPath(t, "zstd", "top", lib, app)
	lost := newPath(t, "none", "lost")
	orphan := newPath(t, "none", "orphan", lost)
	for _, p := range []pushed{top, app, lib, orphan} {
		text, err := p.info.MarshalText()
		require.NoError(t, err)
		o.write(t, p.key(), text)
		o.write(t, p.info.URL, p.archive)
	}
	options := &bucketstore.FsckOptions{Repair: []bucketstore.Kind{bucketstore.UnknownNarinfo}}
	for f, err := range bucketstore.Fsck(t.Context(), o.files, o.catalog, options) {
		require.NoError(t, err)
		if f.Kind == bucketstore.UnknownNarinfo && f.Path == orphan.info.StorePath {
			require.ErrorContains(t, f.Err, "refers to what is not there")
			continue
		}
		require.Equal(t, f.Kind == bucketstore.UnknownNarinfo, f.Repaired, f)
	}
	require.Equal(t, []string{"narinfo-unknown " + orphan.key(), "reference-absent " + orphan.key()}, o.fsck(t, nil))
	options.Elsewhere = func(context.Context, []narinfo.StorePath) ([]narinfo.StorePath, error) { return nil, nil }
	require.Equal(t, []string{"narinfo-unknown " + orphan.key() + "!"}, o.fsck(t, options), "what an upstream has is there")
	p, err := o.catalog.Path(t.Context(), "", top.info.StorePath.HashPart())
	require.NoError(t, err)
	require.Len(t, p.References, 2)
	require.Equal(t, top.info.FileSize, p.FileSize)
}

func TestFsckTellsWhatItCannotDo(t *testing.T) {
	o := operate(t)
	o.push(t, "", newPath(t, "none", "lib"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range bucketstore.Fsck(ctx, o.files, o.catalog, nil) {
		require.ErrorIs(t, err, context.Canceled)
	}
	o.write(t, "nar/x", nil)
	o.write(t, "nar/y", nil)
	n := 0
	for range bucketstore.Fsck(t.Context(), o.files, o.catalog, nil) {
		n++
		break
	}
	require.Equal(t, 1, n, "who has read enough gets no more")
}

// TestRebuildMakesTheCatalogAnew compares what the catalog knew with what a new one knows.
func TestRebuildMakesTheCatalogAnew(t *testing.T) {
	o := operate(t, "team")
	lib := newPath(t, "none", "lib")
	app := newPath(t, "zstd", "app", lib)
	tool := newPath(t, "zstd", "tool", lib)
	o.push(t, "", lib, app, tool)
	o.push(t, "team", lib, tool)
	require.NoError(t, o.catalog.Pin(t.Context(), "", "release", app.info.StorePath, "ann", time.Time{}))
	o.ahead.Store(int64(2 * time.Hour))
	before, usage := o.knows(t), o.usage(t)
	dry := func() string {
		r, err := gc.Collect(t.Context(), o.catalog, nil, gc.Options{DryRun: true, KeepUsed: 90 * time.Minute})
		require.NoError(t, err)
		return r.String()
	}
	_, err := bucketstore.Rebuild(t.Context(), o.files, o.catalog, nil)
	require.ErrorIs(t, err, catalog.ErrNotEmpty)

	o.openCatalog(t)
	require.Len(t, o.fsck(t, nil), 5, "an empty catalog knows nothing")
	n, err := bucketstore.Rebuild(t.Context(), o.files, o.catalog, nil)
	require.NoError(t, err)
	require.Equal(t, 5, n)
	require.Empty(t, o.fsck(t, &bucketstore.FsckOptions{Content: true}))
	require.Equal(t, before, o.knows(t))
	require.Equal(t, usage, o.usage(t))
	require.Contains(t, dry(), "would delete 5 paths")
	require.NoError(t, o.catalog.Pin(t.Context(), "", "release", app.info.StorePath, "ann", time.Time{}))
	require.Contains(t, dry(), "would delete 3 paths")

	_, err = gc.Collect(t.Context(), o.catalog, bucketstore.NewRemover(o.files), gc.Options{KeepUsed: 90 * time.Minute})
	require.NoError(t, err)
	require.Empty(t, o.fsck(t, &bucketstore.FsckOptions{Content: true}))
	require.ElementsMatch(t, []string{"nix-cache-info", "team/nix-cache-info", lib.key(), app.key(), lib.info.URL, app.info.URL}, o.list(t))
}

// knows is all that is known of all paths but what cannot be found in the bucket.
func (o *operated) knows(t *testing.T) []catalog.Path {
	t.Helper()
	var all []catalog.Path
	for _, cache := range []string{"", "team"} {
		for p, err := range o.catalog.Paths(t.Context(), cache, "") {
			require.NoError(t, err)
			p.Uploader, p.Created, p.LastUsed, p.LeasedUntil = "", time.Time{}, time.Time{}, time.Time{}
			all = append(all, *p)
			held, err := o.catalog.Holds(t.Context(), cache, p.Archive)
			require.NoError(t, err)
			require.True(t, held)
		}
	}
	return all
}

func (o *operated) usage(t *testing.T) catalog.Usage {
	t.Helper()
	u, err := o.catalog.Usage(t.Context())
	require.NoError(t, err)
	return u
}

func TestRebuildLeavesOutWhatCannotBeServed(t *testing.T) {
	o := operate(t)
	lib := newPath(t, "none", "lib")
	app := newPath(t, "zstd", "app", lib)
	foreign := newPath(t, "none", "foreign")
	o.push(t, "", lib, app)
	foreign.info.URL, foreign.info.FileHash, foreign.info.FileSize = "nar/some-name", narinfo.Hash{}, 0
	text, err := foreign.info.MarshalText()
	require.NoError(t, err)
	o.write(t, foreign.key(), text)
	o.write(t, foreign.info.URL, foreign.archive)
	o.write(t, strings.Repeat("0", 32)+".narinfo", []byte("x"))
	o.remove(t, app.info.URL)
	o.openCatalog(t)
	n, err := bucketstore.Rebuild(t.Context(), o.files, o.catalog, nil)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, []string{"archive-absent " + app.info.URL, "malformed " + strings.Repeat("0", 32) + ".narinfo",
		"narinfo-unknown " + app.key()}, o.fsck(t, nil))
}

// TestFsckBesideAServerFindsNothing runs it again and again while paths come and go.
func TestFsckBesideAServerFindsNothing(t *testing.T) {
	o := operate(t)
	lib := newPath(t, "none", "lib")
	app := newPath(t, "zstd", "app", lib)
	top := newPath(t, "none", "top", app)
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	var trouble error
	var rounds atomic.Int64
	working.Go(func() {
		for ; ctx.Err() == nil; rounds.Add(1) {
			for _, p := range []pushed{lib, app, top} {
				if err := o.send(ctx, "", p); err != nil && ctx.Err() == nil {
					trouble = errors.Join(trouble, fmt.Errorf("push: %w", err))
				}
			}
			for _, p := range []pushed{top, app, lib} {
				err := o.inboxes[""].Delete(ctx, "ann", p.key())
				if err != nil && ctx.Err() == nil {
					trouble = errors.Join(trouble, fmt.Errorf("delete: %w", err))
				}
			}
		}
	})
	options := &bucketstore.FsckOptions{Content: true, Repair: bucketstore.Kinds()}
	for n := 0; n < 50 || rounds.Load() < 10; n++ {
		for f, err := range bucketstore.Fsck(t.Context(), o.files, o.catalog, options) {
			require.NoError(t, err)
			t.Error(f)
		}
	}
	cancel()
	working.Wait()
	require.NoError(t, trouble)
}

func TestDeletingNamesWhatIsInTheWay(t *testing.T) {
	o := operate(t, "team")
	lib := newPath(t, "none", "lib")
	app := newPath(t, "zstd", "app", lib)
	o.push(t, "", lib, app)
	o.push(t, "team", lib)
	o.write(t, strings.TrimSuffix(app.key(), ".narinfo")+".ls", []byte("{}"))
	inbox := o.inboxes[""]
	err := inbox.Delete(t.Context(), "ann", lib.key())
	var refused *store.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, store.Needed, refused.Why)
	require.Contains(t, refused.Detail, string(app.info.StorePath))
	require.NoError(t, o.catalog.Pin(t.Context(), "", "release", app.info.StorePath, "ann", time.Time{}))
	require.ErrorAs(t, inbox.Delete(t.Context(), "ann", app.key()), &refused)
	require.Contains(t, refused.Detail, "release")
	require.NoError(t, o.catalog.Unpin(t.Context(), "", "release"))

	require.NoError(t, inbox.Delete(t.Context(), "ann", app.key()), "its lease keeps nobody from it")
	require.NoError(t, inbox.Delete(t.Context(), "ann", lib.key()))
	require.ErrorIs(t, inbox.Delete(t.Context(), "ann", lib.key()), store.ErrNotFound)
	require.ErrorIs(t, inbox.Delete(t.Context(), "ann", "nix-cache-info"), store.ErrNotFound)
	require.ElementsMatch(t, []string{"nix-cache-info", "team/nix-cache-info", "team/" + lib.key(), lib.info.URL}, o.list(t),
		"listings go with their paths; an archive that another cache needs stays")
	require.Empty(t, o.fsck(t, &bucketstore.FsckOptions{Content: true}))
}

// Nix before 2.34 cannot send an upload again: a PUT that is told to come back fails the whole push.
func TestPushersOfOnePathWaitForEachOther(t *testing.T) {
	o := operate(t)
	for n := range 10 {
		var pushers errgroup.Group
		for i := range 6 {
			p := newPath(t, []string{"none", "zstd"}[i%2], fmt.Sprint("path", n))
			pushers.Go(func() error { return o.send(t.Context(), "", p) })
		}
		require.NoError(t, pushers.Wait())
	}
	require.Empty(t, o.fsck(t, nil))
}

// slowly yields content a byte at a time, with a pause in the middle that is longer than a lease.
type slowly struct {
	content []byte
	pause   func()
}

func (s *slowly) Read(p []byte) (int, error) {
	if len(s.content) == 0 {
		return 0, io.EOF
	}
	if len(s.content) == 100 {
		s.pause()
	}
	n := copy(p[:1], s.content)
	s.content = s.content[n:]
	return n, nil
}

func TestAnUploadMayTakeLongerThanItsLease(t *testing.T) {
	o := operate(t)
	s, err := bucketstore.OpenFiles(t.Context(), o.files, nil)
	require.NoError(t, err)
	defer s.Close()
	const lease = 200 * time.Millisecond
	inbox := bucketstore.NewInbox(s, o.catalog, &bucketstore.InboxOptions{Lease: lease})
	p := newPath(t, "none", "lib")
	collect := func() {
		_, err := gc.Collect(t.Context(), o.catalog, bucketstore.NewRemover(o.files), gc.Options{})
		require.NoError(t, err)
	}
	err = inbox.Receive(t.Context(), "ann", p.info.URL, &slowly{p.archive, func() {
		for begin := time.Now(); time.Since(begin) < 2*lease; {
			collect()
		}
	}})
	require.NoError(t, err)
	require.Empty(t, o.fsck(t, nil))

	// One that was lost all the same, for the process was stopped, leaves what the next collection removes.
	p = newPath(t, "none", "app")
	err = inbox.Receive(t.Context(), "ann", p.info.URL, &slowly{p.archive, func() {
		o.ahead.Store(int64(time.Hour))
		collect()
		o.ahead.Store(0)
	}})
	if err == nil { // it was prolonged again before it was done
		return
	}
	var refused *store.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, store.Busy, refused.Why)
	require.Empty(t, o.fsck(t, nil))
	o.ahead.Store(int64(time.Hour))
	collect()
	require.NoFileExists(t, o.file(p.info.URL))
}
