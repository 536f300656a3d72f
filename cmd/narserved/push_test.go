package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/internal/shelf"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// tokenFile writes a new token with the right to push into a file.
func (u *uploadServer) tokenFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(u.token(t, "push")+"\n"), 0o600))
	return file
}

// runPush runs narserved push to its end, and returns what it said.
func (u *uploadServer) runPush(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "narserved", append([]string{"push", "--to", u.URL}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestPushOfTheClosureIsReadBackByEveryRelease(t *testing.T) {
	top, paths := someClosure(t)
	for _, compression := range []string{"zstd", "none"} {
		t.Run(compression, func(t *testing.T) {
			u := startUploadServer(t)
			args := []string{"--store", "local", "--token-file", u.tokenFile(t), "--compression", compression, top}
			said, err := u.runPush(t, args...)
			require.NoError(t, err, said)
			require.Contains(t, said, fmt.Sprintf("pushed %d of %[1]d paths to %s", paths, u.URL))
			require.Contains(t, said, fmt.Sprintf("pushed %s (%d of %[2]d)\n", top, paths), "a line for each path, for this is no terminal")

			said, err = u.runPush(t, args...)
			require.NoError(t, err, said)
			require.Contains(t, said, fmt.Sprintf("pushed 0 of %d paths", paths))
			for _, nix := range realnix.All(t) {
				to := nix.TempDir(t)
				nix.Run(t, "nix", append(u.trusting(), "copy", "--from", u.URL, "--to", to, top)...)
				nix.Run(t, "nix", "store", "verify", "--store", to, "--recursive", "--no-trust", top)
			}
		})
	}
}

// bucketOf makes a directory cache with a number of paths by hand, each referring to the one before.
func bucketOf(t *testing.T, n int) (dir string, paths []made) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "nar"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: /nix/store\n"), 0o644))
	for i := range n {
		var references []narinfo.StorePath
		if i > 0 {
			references = append(references, paths[i-1].info.StorePath)
		}
		p := makePath(t, fmt.Sprintf("p%d", i), []byte(fmt.Sprint(t.Name(), i)), references...)
		require.NoError(t, os.WriteFile(filepath.Join(dir, p.info.URL), p.archive, 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, p.key()), p.narinfo(t), 0o644))
		paths = append(paths, p)
	}
	return dir, paths
}

func TestPushWithoutTheRightSaysSoAndFails(t *testing.T) {
	u := startUploadServer(t)
	dir, paths := bucketOf(t, 2)
	top := string(paths[1].info.StorePath)
	said, err := u.runPush(t, "--store", "file://"+dir, "--netrc-file", "/dev/null", top)
	require.Error(t, err)
	require.Contains(t, said, "has no login for 127.0.0.1")
	reader := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(reader, []byte(u.token(t, "read")), 0o600))
	said, err = u.runPush(t, "--store", "file://"+dir, "--token-file", reader, top)
	require.Error(t, err)
	require.Contains(t, said, "403")
	require.Contains(t, said, "a token of this very cache with the scope push is needed")
	require.NotContains(t, said, "nixtrap_")

	netrc := filepath.Join(t.TempDir(), "netrc")
	require.NoError(t, os.WriteFile(netrc, []byte("machine 127.0.0.1 login x password "+u.token(t, "push")+"\n"), 0o600))
	said, err = u.runPush(t, "--store", "file://"+dir, "--netrc-file", netrc, top)
	require.NoError(t, err, said)
	require.Contains(t, said, "pushed 2 of 2 paths")
}

func TestPushToTheWrongURLSaysWhatIsWrongWithIt(t *testing.T) {
	u := startUploadServer(t)
	dir, paths := bucketOf(t, 1)
	withTLS := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(withTLS.Close)
	for _, c := range []struct{ name, to, says string }{
		{"no TLS", strings.Replace(u.URL, "http://", "https://", 1), "hint: that server has no TLS"},
		{"unknown authority", withTLS.URL, "hint: the server's certificate must be valid"},
		{"no such cache", u.URL + "/team", "there is no cache"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "narserved", "push", "--to", c.to, "--store", "file://"+dir,
				"--token-file", u.tokenFile(t), string(paths[0].info.StorePath))
			out, err := cmd.CombinedOutput()
			require.Error(t, err)
			require.Contains(t, string(out), c.says)
			require.NotContains(t, string(out), "trying again", "no retry helps")
		})
	}
}

func TestPushNamesThePathThatFails(t *testing.T) {
	u := startUploadServer(t)
	dir, paths := bucketOf(t, 3)
	bad := paths[1]
	require.NoError(t, os.WriteFile(filepath.Join(dir, bad.info.URL), append([]byte(nil), paths[0].archive...), 0o644))
	said, err := u.runPush(t, "--store", "file://"+dir, "--token-file", u.tokenFile(t), string(paths[2].info.StorePath))
	exit, ok := err.(*exec.ExitError) //nolint:errorlint // exec returns it bare
	require.True(t, ok, said)
	require.Equal(t, 1, exit.ExitCode())
	require.Contains(t, said, string(bad.info.StorePath))
	require.Equal(t, 200, get(t, u.URL+paths[0].key()).status, "what does not need it is there")
	require.Equal(t, 404, get(t, u.URL+bad.key()).status)
}

// enqueue writes an entry into a queue as the hook does.
func enqueue(t *testing.T, dir string, paths ...made) {
	t.Helper()
	var names []string
	for _, p := range paths {
		names = append(names, string(p.info.StorePath))
	}
	cmd := exec.CommandContext(t.Context(), "narserved", "post-build-hook", "--queue", dir)
	cmd.Env = append(os.Environ(), "OUT_PATHS="+strings.Join(names, " "))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err)
	require.Empty(t, string(out))
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.paths"))
	require.NoError(t, err)
	return all
}

func TestSeveralWorkersShareAQueue(t *testing.T) {
	u := startUploadServer(t)
	dir, paths := bucketOf(t, 30)
	q := filepath.Join(t.TempDir(), "queue")
	for _, p := range paths {
		enqueue(t, q, p)
	}
	token := u.tokenFile(t)
	var wg sync.WaitGroup
	said := make([]string, 3)
	for i := range said {
		wg.Go(func() {
			out, err := u.runPush(t, "--store", "file://"+dir, "--token-file", token, "--queue", q)
			if err != nil {
				t.Errorf("worker %d: %v: %s", i, err, out)
			}
			said[i] = out
		})
	}
	wg.Wait()
	require.Empty(t, entries(t, q))
	require.NoDirExists(t, filepath.Join(q, "failed"))
	for _, p := range paths {
		require.Equal(t, 200, get(t, u.URL+p.key()).status)
	}
}

// gate is a proxy to a server that lets no PUT pass while it is shut.
type gate struct {
	to string

	mu   sync.Mutex // guards all below
	shut bool
	puts int
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // only then does the server notice a client that leaves
	g.mu.Lock()
	if r.Method == http.MethodPut {
		g.puts++
	}
	shut := g.shut
	g.mu.Unlock()
	if shut && r.Method == http.MethodPut {
		<-r.Context().Done()
		return
	}
	out, err := http.NewRequestWithContext(r.Context(), r.Method, g.to+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	out.Header = r.Header.Clone()
	resp, err := httpClient.Do(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.puts
}

func TestAQueueSurvivesAWorkerThatIsKilled(t *testing.T) {
	u := startUploadServer(t)
	dir, paths := bucketOf(t, 3)
	q := filepath.Join(t.TempDir(), "queue")
	enqueue(t, q, paths[2])
	g := &gate{to: u.URL, shut: true}
	proxy := serveHTTP(t, g)
	args := []string{"push", "--to", proxy, "--store", "file://" + dir, "--token-file", u.tokenFile(t), "--queue", q}
	worker := exec.CommandContext(t.Context(), "narserved", args...)
	require.NoError(t, worker.Start())
	require.Eventually(t, func() bool { return g.count() > 0 }, 20*time.Second, 10*time.Millisecond)

	out, err := exec.CommandContext(t.Context(), "narserved", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, string(out), "another has the only entry")
	require.NoError(t, worker.Process.Kill())
	require.Error(t, worker.Wait())
	require.Len(t, entries(t, q), 1)

	g.set(false)
	out, err = exec.CommandContext(t.Context(), "narserved", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, entries(t, q))
	require.Equal(t, 200, get(t, u.URL+paths[2].key()).status)
}

// kept is the narinfo of a path on a shelf, "" if it is not there.
func kept(s *shelf.Server, path string) string { return s.File("/" + hashPart(path) + ".narinfo") }

func serveHTTP(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

// watcher is a running narserved push that goes on.
type watcher struct {
	cmd *exec.Cmd
	log logBuffer
}

func startWatcher(t *testing.T, args ...string) *watcher {
	t.Helper()
	w := &watcher{cmd: exec.CommandContext(t.Context(), "narserved", append([]string{"push"}, args...)...)}
	w.cmd.Stdout, w.cmd.Stderr = &w.log, &w.log
	require.NoError(t, w.cmd.Start())
	t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait()
		if t.Failed() {
			t.Logf("narserved push said:\n%s", w.log.String())
		}
	})
	require.Eventually(t, func() bool { return strings.Contains(w.log.String(), "watching ") },
		20*time.Second, 10*time.Millisecond)
	return w
}

func (w *watcher) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, w.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, w.cmd.Wait(), "SIGTERM is no failure: %s", w.log.String())
}

func TestAWatchedQueueWaitsForItsServer(t *testing.T) {
	u := startUploadServer(t)
	dir, paths := bucketOf(t, 2)
	q := filepath.Join(t.TempDir(), "queue")
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("nixtrap_wrong"), 0o600))
	w := startWatcher(t, "--to", u.URL, "--store", "file://"+dir, "--token-file", token, "--queue", q, "--watch")
	enqueue(t, q, paths[1])
	require.Eventually(t, func() bool { return strings.Contains(w.log.String(), "401") }, 20*time.Second, 10*time.Millisecond)
	require.Len(t, entries(t, q), 1, "a server that denies it does not lose it")
	require.NoError(t, os.WriteFile(token, []byte(u.token(t, "push")), 0o600))
	require.Eventually(t, func() bool { return get(t, u.URL+paths[1].key()).status == 200 && len(entries(t, q)) == 0 },
		60*time.Second, 50*time.Millisecond)
	w.stop(t)
}

func TestPostBuildHookOfARealBuild(t *testing.T) {
	program, err := exec.LookPath("narserved")
	require.NoError(t, err)
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			files := &shelf.Server{}
			url := serveHTTP(t, files)
			p := newPrivateStoreOf(t, release)
			at := p.nix.TempDir(t)
			binary, err := os.ReadFile(program)
			require.NoError(t, err)
			hook := filepath.Join(at, "narserved-post-build-hook")
			require.NoError(t, os.WriteFile(p.nix.Host(hook), binary, 0o755))
			var said bytes.Buffer
			build := func(name string) string {
				cmd := p.Command(t, "nix-build", "--no-out-link", "--expr", derivation(name, "echo "+name+" > $out", ""),
					"--option", "post-build-hook", hook)
				cmd.Env = append(cmd.Env, "STATE_DIRECTORY="+at+"/state")
				cmd.Stderr = &said
				out, err := cmd.Output()
				require.NoError(t, err, said.String())
				return strings.TrimSpace(string(out))
			}
			first := build("first")
			q := filepath.Join(p.nix.Host(at), "state/push-queue")
			require.Len(t, entries(t, q), 1, said.String())

			// A queue that cannot be written fails no build.
			require.NoError(t, os.Rename(q, q+".kept"))
			require.NoError(t, os.WriteFile(q, nil, 0o644))
			build("second")
			require.NoError(t, os.Remove(q))
			require.NoError(t, os.Rename(q+".kept", q))

			out, err := exec.CommandContext(t.Context(), "narserved", "push", "--to", url, "--store", p.URI(), "--queue", q).
				CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Empty(t, entries(t, q))
			require.Contains(t, kept(files, first), "StorePath: "+first+"\n")
		})
	}
}

func TestWatchedStorePushesWhatIsBuilt(t *testing.T) {
	p := newPrivateStore(t)
	before := p.Build(t, "before", "echo before > $out")
	files := &shelf.Server{}
	q := filepath.Join(t.TempDir(), "queue")
	args := []string{"--to", serveHTTP(t, files), "--store", p.URI(), "--queue", q, "--watch-store"}
	w := startWatcher(t, args...)
	there := func(path string) func() bool { return func() bool { return kept(files, path) != "" } }
	first := p.Build(t, "first", "echo first > $out")
	require.Eventually(t, there(first), 30*time.Second, 50*time.Millisecond)
	w.stop(t)

	while := p.Build(t, "while", "echo while > $out")
	w = startWatcher(t, args...)
	require.Eventually(t, there(while), 30*time.Second, 50*time.Millisecond, "what was built while nobody watched")
	w.stop(t)
	require.Empty(t, kept(files, before), "what was there is not pushed")
	require.Empty(t, kept(files, p.Run(t, "nix-store", "--query", "--deriver", first)), "derivations are not pushed")

	w = startWatcher(t, append(args, "--drv")...)
	last := p.Build(t, "last", "echo last > $out")
	require.Eventually(t, there(last), 30*time.Second, 50*time.Millisecond)
	require.Eventually(t, there(p.Run(t, "nix-store", "--query", "--deriver", last)), 30*time.Second, 50*time.Millisecond)
	w.stop(t)
}
