package main_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/sqlite"
	"github.com/voidnxlab/nixtrap/store/bucketstore/gc"
	"github.com/voidnxlab/nixtrap/store/bucketstore/s3"
)

// storeURI is where a server of the tests has its bucket.
func (u *uploadServer) storeURI() string {
	return cmp.Or(u.store, "file://"+u.Bucket)
}

// catalogFile is where a server of the tests that other commands can find has its catalog.
func (u *uploadServer) catalogFile() string {
	if u.catalog != "" {
		return u.catalog
	}
	return filepath.Join(filepath.Dir(u.Bucket), "catalog.sqlite")
}

// startOperated starts a server whose catalog other commands can find.
func startOperated(t *testing.T, args ...string) *uploadServer {
	t.Helper()
	dir := t.TempDir()
	u := &uploadServer{Bucket: filepath.Join(dir, "bucket"), tokens: filepath.Join(dir, "tokens.json")}
	u.server = startServer(t, append([]string{"--upload", "--store", "file://" + u.Bucket, "--token-file", u.tokens,
		"--catalog", u.catalogFile()}, args...)...)
	return u
}

// operate runs a command on a server's bucket. It returns what it printed on both, and whether it succeeded.
func (u *uploadServer) operate(t *testing.T, args ...string) (string, bool) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "narserved",
		append(args, "--store", u.storeURI(), "--catalog", u.catalogFile(), "--state-dir", filepath.Dir(u.tokens))...)
	cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1")
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

func (u *uploadServer) succeed(t *testing.T, args ...string) string {
	t.Helper()
	out, ok := u.operate(t, args...)
	require.True(t, ok, "%v: %s", args, out)
	return out
}

func (u *uploadServer) served(t *testing.T, p made) bool {
	t.Helper()
	status := get(t, u.URL+p.key()).status
	require.Contains(t, []int{200, 404}, status)
	return status == 200
}

func TestAPathIsDeletedOverHTTPByWhoMay(t *testing.T) {
	u := startOperated(t)
	push, admin := u.token(t, "push"), u.token(t, "admin")
	lib, app, tool, suite, lone := family(t)
	u.push(t, push, lib, app, tool, suite, lone)
	require.Equal(t, 401, u.send(t, http.MethodDelete, lone.key(), "", nil).status)
	require.Equal(t, 403, u.send(t, http.MethodDelete, lone.key(), push, nil).status)
	for _, path := range []string{"/" + lone.info.URL, "/nix-cache-info", "/", "/x.narinfo", "/../x", "/" + strings.Repeat("0", 32) + ".narinfo"} {
		require.Contains(t, []int{400, 404}, u.send(t, http.MethodDelete, path, admin, nil).status, path)
	}
	a := u.send(t, http.MethodDelete, lib.key(), admin, nil)
	require.Equal(t, 409, a.status)
	require.Contains(t, string(a.body), string(app.info.StorePath))
	require.Contains(t, string(a.body), string(tool.info.StorePath))
	require.Equal(t, 200, u.send(t, http.MethodDelete, lone.key(), admin, nil).status)
	require.Equal(t, 404, u.send(t, http.MethodDelete, lone.key(), admin, nil).status)
	require.False(t, u.served(t, lone))
	require.Equal(t, 404, get(t, u.URL+"/"+lone.info.URL).status, "the archive is gone too, at once")
	require.Equal(t, 404, u.send(t, http.MethodHead, "/"+lone.info.URL, push, nil).status, "and has to be uploaded again")
	u.push(t, push, lone)
	require.True(t, u.served(t, lone))
	u.succeed(t, "fsck", "--content")
}

func TestCommandsWorkBesideTheServer(t *testing.T) {
	u := startOperated(t, "--gc-interval", "0s", "--upload-lease", "1ms")
	push := u.token(t, "push")
	lib, app, tool, suite, lone := family(t)
	u.push(t, push, lib, app, tool, suite, lone)
	u.succeed(t, "pin", "add", "release", string(app.info.StorePath))
	out, ok := u.operate(t, "delete", string(lib.info.StorePath))
	require.False(t, ok)
	require.Contains(t, out, string(tool.info.StorePath))
	require.Equal(t, string(lone.info.StorePath)+"\n", u.succeed(t, "delete", string(lone.info.StorePath)))
	require.False(t, u.served(t, lone))
	u.succeed(t, "gc", "--max-size", "1")
	for _, row := range []struct {
		path   made
		served bool
	}{{lib, true}, {app, true}, {tool, false}, {suite, false}} {
		require.Equal(t, row.served, u.served(t, row.path), row.path.info.StorePath)
	}
	u.succeed(t, "fsck", "--content")
	u.push(t, push, tool, suite)
	u.succeed(t, "fsck", "--content")
}

func TestOnlyOneCollectorIsAtIt(t *testing.T) {
	u := startOperated(t, "--gc-interval", "0s")
	c, err := sqlite.OpenFile(t.Context(), u.catalogFile(), &catalog.Options{Holder: "the other one"})
	require.NoError(t, err)
	defer c.Close()
	_, release, err := c.Lock(t.Context(), "collector")
	require.NoError(t, err)
	out, ok := u.operate(t, "gc")
	require.False(t, ok)
	require.Contains(t, out, "gc: the other one (")
	require.Contains(t, out, ") collects garbage just now")
	u.succeed(t, "gc", "--dry-run")
	release()
	u.succeed(t, "gc")
}

func TestTheServerCollectsByItself(t *testing.T) {
	u := startOperated(t, "--gc-interval", "100ms", "--upload-lease", "200ms", "--keep-used", "1s")
	push := u.token(t, "push")
	lib, app, tool, suite, lone := family(t)
	u.push(t, push, lib, app, tool, suite, lone)
	u.succeed(t, "pin", "add", "release", string(app.info.StorePath))
	require.Eventually(t, func() bool { return len(u.files(t)) == 5 }, 20*time.Second, 50*time.Millisecond,
		"nix-cache-info and the pinned two stay")
	require.True(t, u.served(t, lib) && u.served(t, app))
	u.succeed(t, "fsck", "--content")
	u.says(t, `msg="garbage collected"`)
}

func (u *uploadServer) says(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(u.log.String(), text) }, 20*time.Second, 10*time.Millisecond, text)
}

func TestUploadsAreRefusedWhilePinsExceedTheBound(t *testing.T) {
	u := startOperated(t, "--gc-interval", "100ms", "--upload-lease", "1s", "--max-size", "150")
	push := u.token(t, "push")
	lib, app, _, _, lone := family(t)
	u.push(t, push, lib)
	u.succeed(t, "pin", "add", "lib", string(lib.info.StorePath))
	u.push(t, push, app)
	u.succeed(t, "pin", "add", "app", string(app.info.StorePath))
	u.says(t, `msg="pins and leases hold more than max-size: uploads are refused"`)
	body := func() int {
		return u.send(t, http.MethodPut, "/"+lone.info.URL, push, strings.NewReader(string(lone.archive))).status
	}
	require.Equal(t, http.StatusInsufficientStorage, body())
	u.succeed(t, "pin", "remove", "app")
	u.says(t, `msg="uploads are taken again"`)
	require.Eventually(t, func() bool { return body() == 201 }, 10*time.Second, 50*time.Millisecond)
	require.True(t, u.served(t, lib))
}

// closures returns two top paths whose closures share paths, each with what the other has not.
func closures(t *testing.T) (one, other string, both map[string]bool) {
	t.Helper()
	nix := realnix.Get(t, "2.8")
	top := realnix.Closure(t, 150)
	members := func(path string) map[string]bool {
		all := make(map[string]bool)
		for _, p := range strings.Fields(nix.Run(t, "nix-store", "--query", "--requisites", path)) {
			all[p] = true
		}
		return all
	}
	candidates := strings.Fields(nix.Run(t, "nix-store", "--query", "--references", top))
	type closure struct {
		path string
		of   map[string]bool
	}
	var found []closure
	for _, path := range candidates {
		if of := members(path); len(of) >= 5 && len(of) <= 30 {
			found = append(found, closure{path, of})
		}
		if len(found) == 25 {
			break
		}
	}
	for _, a := range found {
		for _, b := range found {
			shared := make(map[string]bool)
			for p := range a.of {
				if b.of[p] {
					shared[p] = true
				}
			}
			if len(shared) >= 2 && len(shared) < len(a.of)-1 && len(shared) < len(b.of)-1 {
				return a.path, b.path, shared
			}
		}
	}
	t.Fatal("no two closures share paths")
	return "", "", nil
}

func TestNixReadsAPinnedClosureWholeAfterACollection(t *testing.T) {
	kept, gone, shared := closures(t)
	source := startServer(t, "--store", "local", "--compression", "none")
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			u := startOperated(t, "--gc-interval", "0s", "--upload-lease", "1s")
			from := nix.TempDir(t)
			nix.Run(t, "nix", append(source.trusting(), "copy", "--from", source.URL, "--to", from, kept, gone)...)
			push := append(u.netrc(t, nix, u.token(t, "push")), "copy", "--from", from, "--no-check-sigs",
				"--to", u.URL+"?compression=zstd")
			nix.Run(t, "nix", append(push, kept)...)
			size := archiveBytes(t, u)
			nix.Run(t, "nix", append(push, gone)...)
			require.Greater(t, archiveBytes(t, u), size)
			u.succeed(t, "pin", "add", "release", kept)
			for path := range shared {
				require.True(t, u.hasPath(t, path))
			}
			require.Eventually(t, func() bool { // leases of the push run out
				u.succeed(t, "gc", "--max-size", fmt.Sprint(size))
				return archiveBytes(t, u) <= size
			}, 30*time.Second, 100*time.Millisecond)
			require.False(t, u.hasPath(t, gone))
			for path := range shared {
				require.True(t, u.hasPath(t, path), path)
			}
			u.succeed(t, "fsck", "--content")
			to := nix.TempDir(t)
			nix.Run(t, "nix", append(u.trusting(), "copy", "--refresh", "--from", u.URL, "--to", to, kept)...)
			nix.Run(t, "nix", "store", "verify", "--store", to, "--recursive", "--no-trust", kept)
			nix.Run(t, "nix", append(append(push, "--refresh"), gone)...)
			nix.Run(t, "nix", append(u.trusting(), "copy", "--refresh", "--from", u.URL, "--to", nix.TempDir(t), gone)...)
			u.succeed(t, "fsck", "--content")
		})
	}
}

func (u *uploadServer) hasPath(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(filepath.Join(u.Bucket, filepath.Base(path)[:32]+".narinfo"))
	return err == nil
}

// archiveBytes is what the archives have together.
func archiveBytes(t *testing.T, u *uploadServer) (size int64) {
	t.Helper()
	for _, name := range u.files(t) {
		if st, err := os.Stat(filepath.Join(u.Bucket, name)); err == nil && strings.HasPrefix(name, "nar/") {
			size += st.Size()
		}
	}
	return size
}

// broken says which narinfos lie there without an archive or a reference, as a reader sees it who reads one after the
// other.
func (u *uploadServer) broken(t *testing.T) []string {
	t.Helper()
	files, err := bucketstore.OpenDirectory(u.Bucket)
	require.NoError(t, err)
	defer files.Close()
	look := bucketstore.NewLook(files)
	var wrong []string
	for e, err := range files.List(t.Context(), "") {
		require.NoError(t, err)
		hash, isInfo := strings.CutSuffix(e.Key, ".narinfo")
		if !isInfo {
			continue
		}
		info, err := look(t.Context(), "", narinfo.HashPart(hash))
		require.NoError(t, err)
		if info == nil {
			continue
		}
		var absent []string
		if _, err := os.Stat(filepath.Join(u.Bucket, info.URL)); err != nil {
			absent = append(absent, info.URL)
		}
		for _, r := range info.References {
			if !u.hasPath(t, string(r)) {
				absent = append(absent, string(r))
			}
		}
		// A referrer goes before what it refers to: if it is there still, it was broken.
		if again, err := look(t.Context(), "", narinfo.HashPart(hash)); err == nil && again != nil && absent != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %s", info.StorePath, absent))
		}
	}
	return wrong
}

func TestACollectionBesideAPushNeverBreaksAPath(t *testing.T) {
	top := realnix.Closure(t, 150) // takes longer than the lease
	nix := realnix.Get(t, "2.34")
	source := startServer(t, "--store", "local", "--compression", "none")
	u := startOperated(t, "--gc-interval", "0s", "--upload-lease", "500ms")
	from := nix.TempDir(t)
	nix.Run(t, "nix", append(source.trusting(), "copy", "--from", source.URL, "--to", from, top)...)
	push := append(u.netrc(t, nix, u.token(t, "push")), "copy", "--from", from, "--no-check-sigs", "--refresh",
		"--to", u.URL+"?compression=none", top)
	var pushing sync.WaitGroup
	ended := make(chan struct{})
	pushing.Go(func() {
		defer close(ended)
		for range 2 { // what a collection took away under its hands is pushed again
			_ = nix.Command(t, "nix", push...).Run()
		}
	})
	collections, deletions := 0, 0
	for running := true; running; collections++ {
		deletions += strings.Count(u.succeed(t, "gc", "--max-size", "1"), "delete /nix/store/")
		require.Empty(t, u.broken(t))
		select {
		case <-ended:
			running = false
		default:
		}
	}
	pushing.Wait()
	require.Greater(t, collections, 1)
	require.Positive(t, deletions)
	u.succeed(t, "fsck", "--content")
	nix.Run(t, "nix", push...)
	nix.Run(t, "nix", append(u.trusting(), "copy", "--refresh", "--from", u.URL, "--to", nix.TempDir(t), top)...)
	u.succeed(t, "fsck")
}

// TestAKilledServerLeavesNothingThatACollectionDoesNotMend kills it at any moment of pushes and collections.
func TestAKilledServerLeavesNothingThatACollectionDoesNotMend(t *testing.T) {
	paths := make([]made, 24)
	for i := range paths {
		content := make([]byte, 200<<10)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(content)
		paths[i] = makePath(t, fmt.Sprintf("path-%d", i), content)
		if i > 0 {
			paths[i].info.References = []narinfo.StorePath{paths[i/2].info.StorePath}
		}
		if i == 1 {
			paths[i].info.References = nil
		}
	}
	dir := t.TempDir()
	u := &uploadServer{Bucket: filepath.Join(dir, "bucket"), tokens: filepath.Join(dir, "tokens.json")}
	args := []string{"--upload", "--store", "file://" + u.Bucket, "--token-file", u.tokens, "--catalog", u.catalogFile(),
		"--gc-interval", "20ms", "--upload-lease", "50ms", "--keep-used", "100ms"}
	u.server = startServer(t, args...)
	push := u.token(t, "push")
	published, collected := 0, 0
	for round := range 20 {
		if round > 0 {
			u.server = startServer(t, args...)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		for client := range 3 {
			clients.Go(func() {
				for n := client; ctx.Err() == nil; n++ {
					u.pushOnce(ctx, push, paths[n%len(paths)])
				}
			})
		}
		killed := make(chan struct{})
		time.AfterFunc(time.Duration(rand.IntN(400))*time.Millisecond, func() {
			_ = u.cmd.Process.Kill()
			close(killed)
		})
		<-killed
		_ = u.cmd.Wait()
		cancel()
		clients.Wait()
		published += strings.Count(u.log.String(), "path published")
		collected += strings.Count(u.log.String(), "garbage collected")
		require.Empty(t, u.broken(t), "round %d: whoever reads the directory finds all that is promised", round)
		u.requireMended(t, round)
	}
	require.Positive(t, published)
	require.Positive(t, collected)
}

// pushOnce uploads a path, whatever comes of it.
func (u *uploadServer) pushOnce(ctx context.Context, token string, p made) {
	text, err := p.info.MarshalText()
	if err != nil {
		panic(err)
	}
	for _, file := range []struct {
		path string
		body []byte
	}{{"/" + p.info.URL, p.archive}, {p.key(), text}} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, u.URL+file.path, bytes.NewReader(file.body))
		if err != nil {
			panic(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if resp, err := httpClient.Do(req); err == nil {
			_ = resp.Body.Close()
		}
	}
}

// openFiles opens what a server's bucket is, beside it. The test's end closes it.
func (u *uploadServer) openFiles(t *testing.T) bucketstore.Files {
	t.Helper()
	if u.store == "" {
		files, err := bucketstore.OpenDirectory(u.Bucket)
		require.NoError(t, err)
		t.Cleanup(func() { _ = files.Close() })
		return files
	}
	o, err := s3.ParseURL(u.store)
	require.NoError(t, err)
	files, err := s3.Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = files.Close() })
	return files
}

// requireMended collects when all leases are over, after which there must be nothing to find.
func (u *uploadServer) requireMended(t *testing.T, round int) {
	t.Helper()
	files := u.openFiles(t)
	c, err := sqlite.OpenFile(t.Context(), u.catalogFile(), &catalog.Options{
		Now: func() time.Time { return time.Now().Add(time.Hour) },
	})
	require.NoError(t, err)
	defer c.Close()
	_, err = gc.Collect(t.Context(), c.Catalog, bucketstore.NewRemover(files), gc.Options{Look: bucketstore.NewLook(files)})
	require.NoError(t, err)
	for f, err := range bucketstore.Fsck(t.Context(), files, c.Catalog, &bucketstore.FsckOptions{Content: true}) {
		require.NoError(t, err)
		t.Errorf("round %d: %s", round, f)
	}
}
