package main_test

import (
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/s3test"
)

// storeIn is the URI of a bucket, through a proxy if endpoint is not the server's own. Whatever the test starts from now
// on may use it.
func storeIn(t *testing.T, s *s3test.Server, endpoint string) string {
	t.Helper()
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", s.CredentialsFile)
	return fmt.Sprintf("s3://%s?endpoint=%s&region=%s", s.Bucket, url.QueryEscape(endpoint), s3test.Region)
}

// startOverS3 starts a server that takes uploads into a bucket in S3, whose catalog other commands can find: "" is one in
// a file.
func startOverS3(t *testing.T, s *s3test.Server, endpoint, catalog string, args ...string) *uploadServer {
	t.Helper()
	dir := t.TempDir()
	u := &uploadServer{Bucket: s.Dir, tokens: filepath.Join(dir, "tokens.json"), store: storeIn(t, s, endpoint),
		catalog: cmp.Or(catalog, filepath.Join(dir, "catalog.sqlite"))}
	u.server = startServer(t, append([]string{"--upload", "--store", u.store, "--catalog", u.catalog, "--token-file", u.tokens,
		"--gc-interval", "0s"}, args...)...)
	return u
}

// putObject writes an object past narserved.
func putObject(t *testing.T, s *s3test.Server, key, content string) {
	t.Helper()
	_, err := s.Client(t).PutObject(t.Context(), s.Bucket, key, strings.NewReader(content), int64(len(content)), minio.PutObjectOptions{})
	require.NoError(t, err)
}

func removeObject(t *testing.T, s *s3test.Server, key string) {
	t.Helper()
	require.NoError(t, s.Client(t).RemoveObject(t.Context(), s.Bucket, key, minio.RemoveObjectOptions{}))
}

func TestFsckFindsAndMendsDamageInS3(t *testing.T) {
	s := s3test.Start(t)
	u := startOverS3(t, s, s.URL, "")
	push := u.token(t, "push")
	lib, app, tool, suite, lone := family(t)
	u.push(t, push, lib, app, tool, suite, lone)
	require.Contains(t, u.succeed(t, "fsck", "--content"), "are right")

	unneeded := "nar/" + strings.Repeat("0", 52) + ".nar.zst"
	removeObject(t, s, app.info.URL)
	removeObject(t, s, suite.key()[1:])
	putObject(t, s, tool.info.URL, "short")
	putObject(t, s, lone.key()[1:], "nonsense")
	putObject(t, s, unneeded, "unneeded")
	out, ok := u.operate(t, "fsck")
	require.False(t, ok)
	for _, finding := range []string{
		"archive-absent " + app.info.URL, "narinfo-absent " + suite.key()[1:], "archive-size " + tool.info.URL,
		"malformed " + lone.key()[1:], "archive-unneeded " + unneeded,
	} {
		require.Equal(t, 1, strings.Count(out, finding), "%s in %s", finding, out)
	}
	require.Contains(t, out, "fsck: 5 findings")

	for range 2 { // an archive that nothing refers to may be a malformed narinfo's, and waits for that
		out, _ = u.operate(t, "fsck", "--repair")
	}
	require.Contains(t, out, "archive-absent "+app.info.URL, "it has to be pushed")
	u.push(t, push, app, tool, suite, lone)
	u.succeed(t, "fsck", "--content")
	for _, p := range []made{lib, app, tool, suite, lone} {
		require.Equal(t, p.archive, get(t, u.URL+"/"+p.info.URL).body)
	}

	// Content that is wrong and has the right size.
	wrong := bytes.Clone(lib.archive)
	wrong[len(wrong)/2]++
	putObject(t, s, lib.info.URL, string(wrong))
	u.succeed(t, "fsck")
	out, ok = u.operate(t, "fsck", "--content")
	require.False(t, ok)
	require.Contains(t, out, "archive-hash "+lib.info.URL)
}

func TestALostCatalogIsMadeAnewFromS3(t *testing.T) {
	s := s3test.Start(t)
	u := startOverS3(t, s, s.URL, "")
	lib, app, tool, suite, lone := family(t)
	u.push(t, u.token(t, "push"), lib, app, tool, suite, lone)
	out, ok := u.operate(t, "fsck", "--rebuild")
	require.False(t, ok)
	require.Contains(t, out, "is not empty")

	stopServer(t, u.server)
	require.NoError(t, os.Remove(u.catalog))
	out, ok = u.operate(t, "fsck")
	require.False(t, ok)
	require.Contains(t, out, "fsck --rebuild makes one from the bucket")
	out = u.succeed(t, "fsck", "--rebuild", "--content")
	require.Contains(t, out, "5 paths were entered")

	u.succeed(t, "pin", "add", "release", string(app.info.StorePath))
	again := startServer(t, "--upload", "--store", u.store, "--catalog", u.catalog, "--token-file", u.tokens, "--gc-interval", "0s")
	u.server = again
	next := makePath(t, "next", []byte("next"), suite.info.StorePath)
	u.push(t, u.token(t, "push"), next)
	require.True(t, u.served(t, next), "what it refers to is known again")
	u.succeed(t, "delete", string(lone.info.StorePath))
	u.succeed(t, "fsck", "--content")
}

func TestACollectionInS3KeepsWhatIsPinned(t *testing.T) {
	s, f := s3test.Start(t), s3test.NewFaults()
	u := startOverS3(t, s, s.Proxy(t, f), "", "--upload-lease", "1ms")
	push := u.token(t, "push")
	lib, app, tool, suite, lone := family(t)
	u.push(t, push, lib, app, tool, suite, lone)
	u.succeed(t, "pin", "add", "release", string(app.info.StorePath))
	before := u.files(t)
	require.Contains(t, u.succeed(t, "gc", "--max-size", "1", "--dry-run"), string(suite.info.StorePath))
	require.Equal(t, before, u.files(t))

	// What fails for good stops a collection between two steps. Whoever comes when its claim is over finishes it.
	f.Set(func(op string, nth int) s3test.Fault {
		if op == "DeleteObject" && nth > 0 {
			return s3test.Answer(403, "AccessDenied")
		}
		return nil
	})
	out, ok := u.operate(t, "gc", "--max-size", "1")
	require.False(t, ok)
	require.Contains(t, out, "AccessDenied")
	require.Empty(t, u.broken(t), "no path was left without what it needs")
	u.succeed(t, "fsck", "--content")
	f.Set(func(op string, nth int) s3test.Fault {
		if op == "DeleteObject" && nth%2 == 0 {
			return s3test.LostAnswer
		}
		return nil
	})
	u.requireMended(t, 0)
	u.succeed(t, "gc", "--max-size", "1")
	f.Set(nil)
	require.ElementsMatch(t, []string{
		"nix-cache-info", lib.key()[1:], lib.info.URL, app.key()[1:], app.info.URL,
	}, u.files(t), "the pinned closure stays, and nothing else")
	u.succeed(t, "fsck", "--content")
	require.False(t, u.served(t, suite))
	require.Equal(t, app.archive, get(t, u.URL+"/"+app.info.URL).body)
	u.push(t, push, tool, suite)
	u.succeed(t, "fsck", "--content")
}

func TestWhatAnUpstreamHasIsKeptInS3(t *testing.T) {
	o := newOrigin(t)
	lib := o.add(t, makePath(t, "lib", bytes.Repeat([]byte("lib"), 100_000)))
	app := o.add(t, makePath(t, "app", []byte("app"), lib.info.StorePath))
	lone := o.add(t, makePath(t, "lone", noise(6<<20)))
	s, f := s3test.Start(t), s3test.NewFaults()
	u := &uploadServer{Bucket: s.Dir, tokens: filepath.Join(t.TempDir(), "tokens.json"), store: storeIn(t, s, s.Proxy(t, f)),
		catalog: filepath.Join(t.TempDir(), "catalog.sqlite")}
	args := append(o.flags(), "--store", newBucket(t).URI(), "--keep", u.store, "--catalog", u.catalog, "--gc-interval", "0s")
	u.server = startServer(t, args...)

	f.Set(func(op string, nth int) s3test.Fault { // what is kept meets faults as uploads do
		if nth%2 == 0 && (op == "PutObject" || op == "HeadObject") {
			return s3test.LostAnswer
		}
		return nil
	})
	for _, p := range []made{lib, app, lone} {
		_, got := u.fetch(t, p)
		require.Equal(t, p.archive, got.body)
	}
	u.hasKept(t, 3)
	f.Set(nil)
	for _, p := range []made{lib, app, lone} {
		stored, err := os.ReadFile(filepath.Join(s.Dir, p.info.URL))
		require.NoError(t, err)
		require.True(t, bytes.Equal(p.archive, stored), "%s", p.info.StorePath)
	}
	asked := o.count("")
	_, got := u.fetch(t, lone)
	require.Equal(t, lone.archive, got.body)
	require.Equal(t, asked, o.count(""), "what is kept asks nobody")
	require.Empty(t, s.Uploads(t))
	u.succeed(t, "fsck", "--content")

	stopServer(t, u.server)
	o.set(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	u.server = startServer(t, args...)
	_, got = u.fetch(t, app)
	require.Equal(t, app.archive, got.body, "after a restart, without the upstream")
	u.succeed(t, "pin", "add", "app", string(app.info.StorePath))
	u.succeed(t, "gc", "--max-size", "1", "--grace", "0s")
	u.succeed(t, "fsck", "--content")
	require.True(t, u.served(t, lib) && u.served(t, app))
}

// stopServer waits until a server has ended in order.
func stopServer(t *testing.T, s *server) {
	t.Helper()
	require.NoError(t, s.cmd.Process.Signal(os.Interrupt))
	require.NoError(t, s.cmd.Wait())
}
