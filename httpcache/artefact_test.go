package httpcache_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/artefact"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// live is a world whose archives are compressed, among them one that takes several frames.
type live struct {
	*world
	large *narinfo.Info
	cache *artefact.Cache
	dir   string
}

func newLive(t *testing.T) *live {
	t.Helper()
	l := &live{world: newWorld(), dir: t.TempDir()}
	b := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	l.large = l.Add("large", storetest.Files{"": string(b)})
	l.cache = newArtefacts(t, l.dir)
	return l
}

func newArtefacts(t *testing.T, dir string) *artefact.Cache {
	t.Helper()
	c, err := artefact.Open(dir, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// settle waits until what is being made has been published.
func (l *live) settle(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return l.cache.Stats().Running == 0 }, 10*time.Second, time.Millisecond)
}

func (l *live) handler(t *testing.T, s store.Store) *httpcache.Handler {
	t.Helper()
	return newHandler(t, s, &httpcache.Options{Artefacts: l.cache})
}

func artefactURL(info *narinfo.Info, encoder string) string {
	return "/nar/" + string(info.StorePath.HashPart()) + "-" + info.NarHash.Base32() + "-" + encoder + ".nar.zst"
}

func decoded(t *testing.T, compressed string) string {
	t.Helper()
	d, err := zstd.NewReader(strings.NewReader(compressed))
	require.NoError(t, err)
	defer d.Close()
	b, err := io.ReadAll(d)
	require.NoError(t, err)
	return string(b)
}

func TestALiveStoresArchivesAreOfferedCompressed(t *testing.T) {
	l := newLive(t)
	h := l.handler(t, l)
	narinfoURL := "/" + string(l.large.StorePath.HashPart()) + ".narinfo"
	info, err := narinfo.Parse([]byte(body(t, get(h, narinfoURL))))
	require.NoError(t, err)
	require.Equal(t, artefactURL(l.large, "z2"), "/"+info.URL)
	require.Equal(t, "zstd", info.Compression)
	require.True(t, info.FileHash.IsZero())
	require.Zero(t, info.FileSize)

	head := request(h, http.MethodHead, "/"+info.URL)
	require.Equal(t, http.StatusOK, head.StatusCode)
	require.Equal(t, "bytes", head.Header.Get("Accept-Ranges"))
	require.Empty(t, head.Header.Get("Content-Length"))
	require.Zero(t, l.cache.Stats().Made, "HEAD makes nothing")

	all := body(t, get(h, "/"+info.URL))
	require.True(t, string(archiveOf(t, l, l.large)) == decoded(t, all))
	l.settle(t)
	info, err = narinfo.Parse([]byte(body(t, get(h, narinfoURL))))
	require.NoError(t, err)
	require.Equal(t, int64(len(all)), info.FileSize)

	etag := `"` + info.FileHash.Base32() + `"`
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r := request(h, method, "/"+info.URL)
		require.Equal(t, "public, max-age=31536000, immutable", r.Header.Get("Cache-Control"), method)
		require.Equal(t, etag, r.Header.Get("ETag"), method)
		require.Equal(t, fmt.Sprint(len(all)), r.Header.Get("Content-Length"), method)
		require.Empty(t, r.Header.Get("Content-Encoding"), method)
	}
	require.Equal(t, string(archiveOf(t, l, l.large)), body(t, get(h, narURL(l.large))), "the NAR itself is there too")
	require.Equal(t, http.StatusNotFound, get(h, narURL(l.large)+".zst").StatusCode, "the store keeps no archive")
}

func TestAGrowingArtefactIsSentAsItGrows(t *testing.T) {
	l := newLive(t)
	g := &gate{Store: l, at: 2 << 20, open: make(chan struct{})}
	server := httptest.NewServer(l.handler(t, g))
	defer server.Close()
	url := server.URL + artefactURL(l.large, "z2")
	ask := func(ranges string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		if ranges != "" {
			r.Header.Set("Range", ranges)
		}
		resp, err := server.Client().Do(r)
		require.NoError(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	whole := ask("")
	require.Equal(t, http.StatusOK, whole.StatusCode)
	require.Equal(t, []string{"chunked"}, whole.TransferEncoding)
	require.Equal(t, "bytes", whole.Header.Get("Accept-Ranges"))
	require.Empty(t, whole.Header.Get("Content-Encoding"))
	require.Empty(t, whole.Header.Get("ETag"))
	begin := make([]byte, 100_000)
	_, err := io.ReadFull(whole.Body, begin)
	require.NoError(t, err, "bytes come while the rest is not there")

	part := ask("bytes=1000-1999")
	require.Equal(t, http.StatusPartialContent, part.StatusCode)
	require.Equal(t, "bytes 1000-1999/*", part.Header.Get("Content-Range"))
	require.Equal(t, "1000", part.Header.Get("Content-Length"))
	require.Equal(t, string(begin[1000:2000]), body(t, part))

	type result struct {
		status int
		header string
		body   string
	}
	late := map[string]chan result{"bytes=2000000-2000099": nil, "bytes=3000000-": nil, "bytes=-100": nil, "bytes=99999999-": nil,
		"bytes=5000000-99999999": nil}
	var clients sync.WaitGroup
	for ranges := range late {
		late[ranges] = make(chan result, 1)
		done := late[ranges]
		clients.Go(func() {
			r := ask(ranges)
			done <- result{r.StatusCode, r.Header.Get("Content-Range"), body(t, r)}
		})
	}
	time.Sleep(20 * time.Millisecond)
	for ranges, done := range late {
		require.Empty(t, done, "%s waits", ranges)
	}
	close(g.open)
	rest := body(t, whole)
	all := string(begin) + rest
	require.True(t, string(archiveOf(t, l, l.large)) == decoded(t, all))
	size := len(all)
	for ranges, want := range map[string]result{
		"bytes=2000000-2000099":  {206, "bytes 2000000-2000099/*", all[2000000:2000100]},
		"bytes=3000000-":         {206, fmt.Sprintf("bytes 3000000-%d/%d", size-1, size), all[3000000:]},
		"bytes=-100":             {206, fmt.Sprintf("bytes %d-%d/%d", size-100, size-1, size), all[size-100:]},
		"bytes=5000000-99999999": {206, fmt.Sprintf("bytes 5000000-%d/%d", size-1, size), all[5000000:]},
		"bytes=99999999-":        {416, fmt.Sprintf("bytes */%d", size), "range not satisfiable\n"},
	} {
		require.Equal(t, want, <-late[ranges], ranges)
	}
	clients.Wait()
}

// gate is a store whose archives wait at an offset until it is opened.
type gate struct {
	store.Store
	at   int64
	open chan struct{}
}

func (g *gate) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	r, err := g.Store.Open(ctx, info)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(r, g.at), readerFunc(func(p []byte) (int, error) {
		<-g.open
		return r.Read(p)
	})), r}, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAnOlderEncodersURLLeadsToTheCurrentOne(t *testing.T) {
	l := newLive(t)
	h := l.handler(t, l)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		r := request(h, method, artefactURL(l.lib, "z0"))
		require.Equal(t, http.StatusTemporaryRedirect, r.StatusCode)
		require.Equal(t, strings.TrimPrefix(artefactURL(l.lib, "z2"), "/nar/"), r.Header.Get("Location"))
		require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
	}
	for url, status := range map[string]int{
		artefactURL(l.lib, "Z1"):                                                                400,
		artefactURL(l.lib, ""):                                                                  400,
		artefactURL(l.lib, strings.Repeat("z", 17)):                                             400,
		artefactURL(l.lib, "z2") + ".zst":                                                       400,
		strings.Replace(narURL(l.lib), "-", "_", 1):                                             400,
		"/nar/" + absentHash + "-" + absentNarHash + "-z2.nar.zst":                              404,
		"/nar/" + string(l.lib.StorePath.HashPart()) + "-" + absentNarHash + "-z2.nar.zst":      404,
		"/nar/" + string(l.lib.StorePath.HashPart()) + "-" + l.lib.NarHash.Base32() + "-z2.nar": 400,
	} {
		require.Equal(t, status, get(h, url).StatusCode, url)
	}
	require.Equal(t, http.StatusNotFound, get(newHandler(t, l, nil), artefactURL(l.lib, "z2")).StatusCode)
}

func TestThePolicyHoldsForArtefacts(t *testing.T) {
	l := newLive(t)
	require.Equal(t, http.StatusOK, get(l.handler(t, l), artefactURL(l.lib, "z2")).StatusCode)
	l.settle(t)
	nothing := httpcache.ClosureOf(l, func(context.Context) ([]narinfo.StorePath, error) { return nil, nil }, 0)
	h := newHandler(t, l, &httpcache.Options{Artefacts: l.cache, Policy: nothing})
	for _, encoder := range []string{"z0", "z2"} {
		forbidden, absent := get(h, artefactURL(l.lib, encoder)), get(h, "/"+absentHash+".narinfo")
		require.Equal(t, http.StatusNotFound, forbidden.StatusCode)
		require.Equal(t, absent.Header, forbidden.Header)
	}
	l.Delete(l.lib.StorePath)
	require.Equal(t, http.StatusNotFound, get(l.handler(t, l), artefactURL(l.lib, "z2")).StatusCode,
		"an artefact does not outlive its path")
}

func TestASourceThatFailsNeverEndsWell(t *testing.T) {
	l := newLive(t)
	for name, tt := range map[string]struct {
		at     int64
		err    error
		status int
	}{
		"before the first byte": {1000, store.ErrCorrupt, 404},
		"fault at first":        {1000, errDisk, 500},
		"in the middle":         {3 << 20, errDisk, 200},
		"proof at the end":      {l.large.NarSize - 1, store.ErrCorrupt, 200},
		"behind the end":        {l.large.NarSize, store.ErrCorrupt, 200},
	} {
		t.Run(name, func(t *testing.T) {
			s := &storetest.Faults{Store: l, Read: storetest.FailAt(tt.at, tt.err)}
			for _, cache := range []*artefact.Cache{l.cache, newArtefacts(t, "")} {
				server := httptest.NewServer(newHandler(t, s, &httpcache.Options{Artefacts: cache}))
				defer server.Close()
				var clients sync.WaitGroup
				for range 5 {
					clients.Go(func() {
						r, err := server.Client().Get(server.URL + artefactURL(l.large, "z2"))
						if err != nil {
							t.Error(err)
							return
						}
						defer r.Body.Close()
						_, err = io.Copy(io.Discard, r.Body)
						if tt.status == 200 && r.StatusCode == 200 && err == nil {
							t.Error("a wrong archive came to its end")
						}
						if r.StatusCode != tt.status && (tt.status != 200 || r.StatusCode == 206) {
							t.Errorf("status %d", r.StatusCode)
						}
					})
				}
				clients.Wait()
			}
		})
	}
	l.settle(t)
	require.Zero(t, l.cache.Stats().Artefacts)
}

func TestAFinishedArtefactIsCopiedByTheKernel(t *testing.T) {
	l := newLive(t)
	h := l.handler(t, l)
	all := body(t, get(h, artefactURL(l.large, "z2")))
	l.settle(t)
	for name, tt := range map[string]struct {
		ranges, want string
		sent         bool
	}{
		"whole": {"", all, true}, "range": {"bytes=5-3000000", all[5:3000001], true},
		"small range": {"bytes=7-8", all[7:9], false}, "the first piece": {"bytes=0-524287", all[:524288], false},
		"a byte more": {"bytes=0-524288", all[:524289], false}, "the end": {"bytes=-700000", all[len(all)-700000:], true},
	} {
		w := &sendFileRecorder{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest(http.MethodGet, artefactURL(l.large, "z2"), nil)
		if tt.ranges != "" {
			r.Header.Set("Range", tt.ranges)
		}
		h.ServeHTTP(w, r)
		require.True(t, tt.want == w.Body.String(), name)
		require.Equal(t, tt.sent, w.sent > 0, name)
	}
}

func TestAnArtefactThatChangesWhileItIsSentIsNotCompleted(t *testing.T) {
	l := newLive(t)
	h := l.handler(t, l)
	require.Equal(t, http.StatusOK, get(h, artefactURL(l.large, "z2")).StatusCode)
	l.settle(t)
	files, err := filepath.Glob(filepath.Join(l.dir, "*.zst"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	for _, ranges := range []string{"", "bytes=100-", "bytes=100-2000000"} {
		w := &sendFileRecorder{ResponseRecorder: httptest.NewRecorder(), before: func() { damage(t, files[0]) }}
		r := httptest.NewRequest(http.MethodGet, artefactURL(l.large, "z2"), nil)
		if ranges != "" {
			r.Header.Set("Range", ranges)
		}
		require.PanicsWithValue(t, http.ErrAbortHandler, func() { h.ServeHTTP(w, r) }, ranges)
		require.Equal(t, http.StatusOK, get(h, artefactURL(l.large, "z2")).StatusCode, "made anew")
		l.settle(t)
	}
}

// sendFileRecorder does what the kernel does.
type sendFileRecorder struct {
	*httptest.ResponseRecorder
	sent   int64
	before func() // nil: nothing
}

func (w *sendFileRecorder) SendFile(fd int, offset, n int64) (int64, error) {
	if w.before != nil {
		w.before()
	}
	b := make([]byte, n)
	got, err := unix.Pread(fd, b, offset)
	w.Body.Write(b[:got])
	w.sent += int64(got)
	return int64(got), err
}

// damage writes into a file.
func damage(t *testing.T, file string) {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("damage"), 3<<20)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestACacheThatKeepsNothingStillAnswers(t *testing.T) {
	l := newLive(t)
	h := newHandler(t, l, &httpcache.Options{Artefacts: newArtefacts(t, "")})
	info, err := narinfo.Parse([]byte(body(t, get(h, "/"+string(l.large.StorePath.HashPart())+".narinfo"))))
	require.NoError(t, err)
	require.Equal(t, "none", info.Compression)
	require.Equal(t, l.large.NarHash, info.FileHash)
	for _, headers := range [][]string{nil, {"Range", "bytes=5-10"}} {
		r := get(h, artefactURL(l.large, "z2"), headers...)
		require.Equal(t, http.StatusOK, r.StatusCode)
		require.Empty(t, r.Header.Get("Accept-Ranges"))
		require.True(t, string(archiveOf(t, l, l.large)) == decoded(t, body(t, r)))
	}
	require.Empty(t, request(h, http.MethodHead, artefactURL(l.large, "z2")).Header.Get("Accept-Ranges"))
}

func TestAStoresOwnArchiveComesFirst(t *testing.T) {
	b := newBucket(t)
	h := newHandler(t, b, &httpcache.Options{Artefacts: newArtefacts(t, t.TempDir())})
	info, err := narinfo.Parse([]byte(body(t, get(h, b.urls()["narinfo"]))))
	require.NoError(t, err)
	require.Equal(t, b.archiveURL(), "/"+info.URL)
	require.Equal(t, http.StatusNotFound, get(h, artefactURL(b.tool, "z2")).StatusCode)
}

func TestDebugInfoNamesThePlainArchive(t *testing.T) {
	l := newLive(t)
	require.Contains(t, body(t, get(l.handler(t, l), "/debuginfo/"+buildID)), `"..`+narURL(l.tool)+`"`)
}
