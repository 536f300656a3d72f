package upload_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/shelf"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/httpstore"
	"github.com/voidnxlab/nixtrap/store/httpstore/upload"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

func bearer(token string) func(context.Context) (string, error) { return httpstore.Bearer(token) }

func TestPushBringsAClosureAndTheNextOneNothing(t *testing.T) {
	for _, compression := range []upload.Compression{"", upload.Zstd, upload.None} {
		t.Run(string(compression), func(t *testing.T) {
			s, c := newSources(), newCache(t, nil)
			o := quick("secret")
			o.Compression = compression
			client := newClient(t, c.url, o)
			report, err := client.Push(t.Context(), s, s.top.StorePath)
			require.NoError(t, err)
			require.Equal(t, 4, report.Paths)
			require.Len(t, report.Pushed, 4)
			require.Equal(t, s.base.StorePath, report.Pushed[0])
			require.Equal(t, s.top.StorePath, report.Pushed[3])
			requireSame(t, c.bucket, s.base, s.a, s.b, s.top)
			_, err = c.bucket.Info(t.Context(), s.lone.StorePath.HashPart())
			require.ErrorIs(t, err, store.ErrNotFound, "what is not in the closure is not pushed")

			requests := c.take()
			require.Len(t, of(requests, "POST /missing-paths"), 1)
			require.Len(t, of(requests, "PUT "), 8)
			for _, r := range of(requests, "HEAD ") {
				require.True(t, strings.HasPrefix(r, "HEAD /nar/"), r)
			}

			report, err = client.Push(t.Context(), s, s.top.StorePath, s.a.StorePath)
			require.NoError(t, err)
			require.Empty(t, report.Pushed)
			require.Equal(t, []string{"POST /missing-paths"}, c.take(), "one question is all")

			report, err = client.Push(t.Context(), s, s.lone.StorePath, s.top.StorePath)
			require.NoError(t, err)
			require.Equal(t, []narinfo.StorePath{s.lone.StorePath}, report.Pushed)
		})
	}
}

func TestPushToAServerThatOnlyKeepsFiles(t *testing.T) {
	s, files := newSources(), &shelf.Server{}
	r := &recorder{next: files}
	client := newClient(t, serve(t, r)+"/below/here", quick(""))
	report, err := client.Push(t.Context(), s, s.top.StorePath)
	require.NoError(t, err)
	require.Len(t, report.Pushed, 4)
	requests := r.take()
	at := func(info *narinfo.Info) int {
		n := slices.Index(requests, "PUT /below/here/"+string(info.StorePath.HashPart())+".narinfo")
		require.GreaterOrEqual(t, n, 0, info.StorePath)
		return n
	}
	for _, info := range []*narinfo.Info{s.base, s.a, s.b, s.top} {
		text := files.File("/below/here/" + string(info.StorePath.HashPart()) + ".narinfo")
		stored, err := narinfo.Parse([]byte(text))
		require.NoError(t, err)
		require.Less(t, slices.Index(requests, "PUT /below/here/"+stored.URL), at(info), "the archive first")
		require.Equal(t, int64(len(files.File("/below/here/"+stored.URL))), stored.FileSize)
	}
	require.Less(t, at(s.base), min(at(s.a), at(s.b)), "references first")
	require.Less(t, max(at(s.a), at(s.b)), at(s.top), "references first")
	require.Len(t, of(requests, "HEAD "), 8, "each narinfo and each archive is asked for")

	_, err = client.Push(t.Context(), s, s.top.StorePath)
	require.NoError(t, err)
	require.Empty(t, of(r.take(), "PUT "))
}

func TestPushIsTakenUpWhereItWasCutOff(t *testing.T) {
	s, c := newSources(), newCache(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	c.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".narinfo") {
			cancel()
			panic(http.ErrAbortHandler)
		}
		return false
	}
	o := quick("secret")
	o.Jobs = 1
	client := newClient(t, c.url, o)
	report, err := client.Push(ctx, s, s.top.StorePath)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, report.Pushed)
	sent := of(c.take(), "PUT /nar/")
	require.NotEmpty(t, sent)
	c.mu.Lock()
	c.answer = nil
	c.mu.Unlock()
	_, err = client.Push(t.Context(), s, s.top.StorePath)
	require.NoError(t, err)
	for _, again := range of(c.take(), "PUT /nar/") {
		require.NotContains(t, sent, again, "what was uploaded whole is not sent again")
	}
	requireSame(t, c.bucket, s.base, s.a, s.b, s.top)
}

func TestPushTriesAgain(t *testing.T) {
	for name, fault := range map[string]func(w http.ResponseWriter, r *http.Request){
		"503":           func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"429":           func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"500":           func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"a lost answer": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"a cut connection": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, 1000)
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := newSources(), newCache(t, nil)
			var mu sync.Mutex
			seen := make(map[string]int)
			c.answer = func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				seen[r.Method+r.URL.Path]++
				n := seen[r.Method+r.URL.Path]
				mu.Unlock()
				if n > 2 {
					return false
				}
				fault(w, r)
				return true
			}
			var retries atomic.Int64
			o := quick("secret")
			o.Trace = &upload.Trace{Retry: func(narinfo.StorePath, error, time.Duration) { retries.Add(1) }}
			_, err := newClient(t, c.url, o).Push(t.Context(), s, s.top.StorePath)
			require.NoError(t, err)
			require.GreaterOrEqual(t, retries.Load(), int64(2))
			requireSame(t, c.bucket, s.base, s.a, s.b, s.top)
		})
	}
}

func TestPushGivesUp(t *testing.T) {
	s, c := newSources(), newCache(t, nil)
	c.answer = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	}
	o := quick("secret")
	o.Attempts = 3
	_, err := newClient(t, c.url, o).Push(t.Context(), s, s.top.StorePath)
	status, ok := errors.AsType[*upload.StatusError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, http.StatusBadGateway, status.Status)
	require.Len(t, c.take(), 3)
}

func TestPathsThatFailTakeTheirReferrersWithThemAndNothingElse(t *testing.T) {
	s, c := newSources(), newCache(t, nil)
	c.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut || r.URL.Path != "/"+string(s.a.StorePath.HashPart())+".narinfo" {
			return false
		}
		http.Error(w, "not today", http.StatusBadRequest)
		return true
	}
	var mu sync.Mutex
	done := make(map[narinfo.StorePath]error)
	o := quick("secret")
	o.Trace = &upload.Trace{Done: func(path narinfo.StorePath, err error) {
		mu.Lock()
		defer mu.Unlock()
		done[path] = err
	}}
	report, err := newClient(t, c.url, o).Push(t.Context(), s, s.top.StorePath, s.lone.StorePath)
	require.ErrorContains(t, err, string(s.a.StorePath))
	require.ErrorContains(t, err, "not today")
	require.NotContains(t, err.Error(), string(s.top.StorePath), "a consequence is not named among the causes")
	require.ElementsMatch(t, []narinfo.StorePath{s.base.StorePath, s.b.StorePath, s.lone.StorePath}, report.Pushed)
	require.Len(t, report.Failed, 2)
	require.True(t, report.Complete)
	reference, ok := errors.AsType[*upload.ReferenceError](report.Failed[s.top.StorePath])
	require.True(t, ok)
	require.Equal(t, s.a.StorePath, reference.Reference)
	require.Len(t, done, 5)
	require.Equal(t, report.Failed[s.a.StorePath], done[s.a.StorePath])
}

// damaged is a store whose archive of one path ends in an error.
type damaged struct {
	store.Store
	path narinfo.StorePath
}

func (d damaged) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	r, err := d.Store.Open(ctx, info)
	if err == nil && info.StorePath == d.path {
		r = storetest.FailAt(100, store.ErrCorrupt)(ctx, r)
	}
	return r, err
}

func TestDamagedPathIsNotPublished(t *testing.T) {
	for _, compression := range []upload.Compression{upload.Zstd, upload.None} {
		s, c := newSources(), newCache(t, nil)
		o := quick("secret")
		o.Compression = compression
		report, err := newClient(t, c.url, o).Push(t.Context(), damaged{s, s.b.StorePath}, s.top.StorePath)
		require.ErrorIs(t, err, store.ErrCorrupt, compression)
		require.Len(t, report.Failed, 2)
		require.LessOrEqual(t, len(of(c.take(), "PUT /nar/")), 4, "it was not tried again")
		_, err = c.bucket.Info(t.Context(), s.b.StorePath.HashPart())
		require.ErrorIs(t, err, store.ErrNotFound)
	}
}

func TestDenialEndsThePush(t *testing.T) {
	for _, token := range []string{"", "forged", "reader"} {
		s, c := newSources(), newCache(t, nil)
		report, err := newClient(t, c.url, quick(token)).Push(t.Context(), s, s.top.StorePath)
		require.ErrorIs(t, err, upload.ErrDenied, "%q", token)
		require.False(t, report.Complete, "%q", token)
		require.Len(t, c.take(), 1, "%q", token)

		var puts atomic.Int64
		r := &recorder{next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			status := map[string]int{http.MethodPost: 405, http.MethodHead: 404, http.MethodPut: 401}[r.Method]
			if r.Method == http.MethodPut {
				puts.Add(1)
			}
			w.WriteHeader(status)
		})}
		o := quick(token)
		o.Jobs = 1
		_, err = newClient(t, serve(t, r), o).Push(t.Context(), s, s.top.StorePath)
		require.ErrorIs(t, err, upload.ErrDenied)
		require.Equal(t, int64(1), puts.Load())
	}
}

func TestPathsAreSignedOnTheWay(t *testing.T) {
	key, err := signing.GenerateKey("builder-1")
	require.NoError(t, err)
	keys := signing.Keyring{key.Public()}
	s, c := newSources(), newCache(t, &bucketstore.InboxOptions{Trusted: keys})
	report, err := newClient(t, c.url, quick("secret")).Push(t.Context(), s, s.lone.StorePath)
	require.Error(t, err)
	require.NotErrorIs(t, err, upload.ErrDenied, "it is the path that is refused")
	require.Len(t, report.Failed, 1)
	o := quick("secret")
	o.Keys = []*signing.SecretKey{key}
	_, err = newClient(t, c.url, o).Push(t.Context(), s, s.lone.StorePath)
	require.NoError(t, err)
}

func TestWhatWasCollectedMeanwhileIsPushedAnew(t *testing.T) {
	s, files := newSources(), &shelf.Server{}
	var once sync.Once
	r := &recorder{next: files}
	r.answer = func(w http.ResponseWriter, r *http.Request) (answered bool) {
		if r.Method == http.MethodPut && r.URL.Path == "/"+string(s.top.StorePath.HashPart())+".narinfo" {
			once.Do(func() {
				files.Clear()
				http.Error(w, "upload a first", http.StatusConflict)
				answered = true
			})
		}
		return answered
	}
	report, err := newClient(t, serve(t, r), quick("")).Push(t.Context(), s, s.top.StorePath)
	require.NoError(t, err)
	require.Empty(t, report.Failed)
	require.Len(t, files.Names(), 8)
}

func TestArchivesThatTheStoreKeepsAreSentAsTheyAre(t *testing.T) {
	s, first, second := newSources(), newCache(t, nil), newCache(t, nil)
	_, err := newClient(t, first.url, quick("secret")).Push(t.Context(), s, s.top.StorePath)
	require.NoError(t, err)
	_, err = newClient(t, second.url, quick("secret")).Push(t.Context(), first.bucket, s.top.StorePath)
	require.NoError(t, err)
	requireSame(t, second.bucket, s.base, s.a, s.b, s.top)
	require.ElementsMatch(t, of(first.take(), "PUT "), of(second.take(), "PUT "), "the same names, so the same bytes")

	third := newCache(t, nil)
	o := quick("secret")
	o.Compression = upload.None
	_, err = newClient(t, third.url, o).Push(t.Context(), first.bucket, s.top.StorePath)
	require.NoError(t, err)
	for _, r := range of(third.take(), "PUT /nar/") {
		require.True(t, strings.HasSuffix(r, ".nar"), r)
	}
}

func TestNoTemporaryFileStays(t *testing.T) {
	s, c := newSources(), newCache(t, nil)
	o := quick("secret")
	o.TempDir = t.TempDir()
	o.Compression = upload.Zstd
	var most atomic.Int64
	o.Trace = &upload.Trace{Sent: func(path narinfo.StorePath, sent, size int64) {
		if path == s.base.StorePath && size <= 1<<20 {
			t.Errorf("the test wants an archive beyond 1 MiB, not %d bytes", size)
		}
		most.Store(max(most.Load(), sent))
	}}
	_, err := newClient(t, c.url, o).Push(t.Context(), s, s.top.StorePath)
	require.NoError(t, err)
	require.Greater(t, most.Load(), int64(1<<20))
	entries, err := os.ReadDir(o.TempDir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestPushOfWhatIsNotThere(t *testing.T) {
	s, c := newSources(), newCache(t, nil)
	_, err := newClient(t, c.url, quick("secret")).Push(t.Context(), s, "/nix/store/00000000000000000000000000000000-x")
	require.ErrorIs(t, err, store.ErrNotFound)
	require.Empty(t, c.take())
	report, err := newClient(t, c.url, quick("secret")).Push(t.Context(), s)
	require.NoError(t, err)
	require.Zero(t, report.Paths)
}

func TestLoginInTheURLIsSentAndNotShown(t *testing.T) {
	s, c := newSources(), newCache(t, nil)
	client := newClient(t, strings.Replace(c.url, "://", "://login:secret@", 1), nil)
	_, err := client.Push(t.Context(), s, s.lone.StorePath)
	require.NoError(t, err)
	require.Equal(t, c.url, client.String())
	dead := newClient(t, "http://login:secret@127.0.0.1:1", &upload.Options{Attempts: 1})
	_, err = dead.Push(t.Context(), s, s.lone.StorePath)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")
}

func TestNewRefuses(t *testing.T) {
	for _, url := range []string{"", "cache.example.org", "ftp://x", "http://", "https://x?compression=zstd", "http://x#y",
		"http://secret@%zz"} {
		_, err := upload.New(url, nil)
		require.Error(t, err, url)
		require.NotContains(t, err.Error(), "secret")
	}
	for name, o := range map[string]*upload.Options{
		"jobs": {Jobs: -1}, "attempts": {Attempts: -1}, "compression": {Compression: "xz"}, "stall": {StallTimeout: -1},
	} {
		_, err := upload.New("http://x", o)
		require.Error(t, err, name)
	}
	_, err := upload.New("http://a:b@x", quick("secret"))
	require.Error(t, err)
}
