package pullthrough_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/httpstore"
	"github.com/voidnxlab/nixtrap/store/pullthrough"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// origin is a binary cache over HTTP whose archives have no FileHash and no FileSize, and come in chunks through a gate.
type origin struct {
	remote *remote
	key    *signing.SecretKey
	gate   *gate

	mu    sync.Mutex // guards asked
	asked map[string]int
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.asked[r.URL.Path]++
	o.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, "/")
	if hash, ok := strings.CutSuffix(name, ".narinfo"); ok {
		info, err := o.remote.Info(r.Context(), narinfo.HashPart(hash))
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		info.URL, info.FileHash, info.FileSize = info.URL+"?narsize=1", narinfo.Hash{}, 0
		info.Sign(o.key)
		text, _ := info.MarshalText()
		w.Write(text)
		return
	}
	file, ok := o.remote.files[name]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusOK)
	_, err := io.Copy(flusher{w}, o.gate.reader(r.Context(), strings.NewReader(string(file))))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

type flusher struct{ w http.ResponseWriter }

func (f flusher) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	return n, errors.Join(err, http.NewResponseController(f.w).Flush())
}

func (o *origin) count(part string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for path, k := range o.asked {
		if strings.Contains(path, part) {
			n += k
		}
	}
	return n
}

// shelf is a receiver that is a store too, of what it has received.
type shelf struct {
	*storetest.Memory
	box
	remote *remote
}

func (s *shelf) Receive(ctx context.Context, info *narinfo.Info, archive io.Reader) error {
	if err := s.box.Receive(ctx, info, archive); err != nil {
		return err
	}
	for _, e := range s.remote.Entries() {
		if e.Info.StorePath == info.StorePath {
			e.Info.URL = ""
			s.AddInfo(e.Info, e.NAR)
		}
	}
	return nil
}

// A byte that is wrong reaches neither the receiver nor a client's end.
func TestWrongBytesAreNotStored(t *testing.T) {
	key, err := signing.GenerateKey("origin-1")
	require.NoError(t, err)
	r := newRemote(t)
	lib, file := r.lib(t)
	file[len(file)/2] ^= 1
	upstream := httptest.NewServer(&origin{remote: r, key: key, gate: newGate(1 << 40), asked: map[string]int{}})
	t.Cleanup(upstream.Close)
	far, err := httpstore.New(upstream.URL, &httpstore.Options{
		TrustedKeys: signing.Keyring{key.Public()}, LookupBudget: time.Minute, NegativeTTL: -1,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, far.Close()) })
	b := &box{}
	s, err := pullthrough.New(far, b, &pullthrough.Options{TempDir: t.TempDir()})
	require.NoError(t, err)
	for range 3 {
		f, err := s.OpenArchive(t.Context(), lib)
		require.NoError(t, err)
		got, err := io.ReadAll(f)
		require.ErrorIs(t, err, store.ErrCorrupt)
		require.Less(t, len(got), len(file))
		require.NoError(t, f.Close())
	}
	require.NoError(t, s.Close())
	require.Nil(t, b.has(lib.StorePath))
	require.NotEmpty(t, b.failed)
}

// A whole server: what it has not it fetches, streams and keeps, and only for those who read.
func TestServedThroughHTTP(t *testing.T) {
	key, err := signing.GenerateKey("origin-1")
	require.NoError(t, err)
	r := newRemote(t)
	o := &origin{remote: r, key: key, gate: newGate(100_000), asked: map[string]int{}}
	upstream := httptest.NewServer(o)
	t.Cleanup(upstream.Close)
	far, err := httpstore.New(upstream.URL, &httpstore.Options{
		TrustedKeys: signing.Keyring{key.Public()}, LookupBudget: time.Minute,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, far.Close()) })
	near := &shelf{Memory: &storetest.Memory{}, remote: r}
	pulled, err := pullthrough.New(far, near, &pullthrough.Options{TempDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pulled.Close()) })
	all, err := store.NewLayered([]store.Store{near}, []store.Store{pulled})
	require.NoError(t, err)
	handler, err := httpcache.New(all, nil)
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)

	// What a pusher sees.
	lib, file := r.lib(t)
	_, err = all.Info(store.LocalOnly(t.Context()), lib.StorePath.HashPart())
	require.ErrorIs(t, err, store.ErrNotFound)
	require.Zero(t, o.count(""))

	get := func(method, url, ranges string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/"+url, nil)
		require.NoError(t, err)
		if ranges != "" {
			req.Header.Set("Range", ranges)
		}
		resp, err := server.Client().Do(req)
		require.NoError(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	resp := get(http.MethodGet, string(lib.StorePath.HashPart())+".narinfo", "")
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	info, err := narinfo.Parse(text)
	require.NoError(t, err)
	require.Equal(t, "zstd", info.Compression)
	require.Equal(t, "nar/"+string(lib.StorePath.HashPart())+"-"+lib.NarHash.Base32()+".nar.zst", info.URL)
	require.Equal(t, http.StatusOK, get(http.MethodHead, info.URL, "").StatusCode)
	require.Zero(t, o.count("nar/"), "a HEAD fetches nothing")

	resp = get(http.MethodGet, info.URL, "")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	first := make([]byte, 50_000)
	_, err = io.ReadFull(resp.Body, first)
	require.NoError(t, err)
	require.Equal(t, file[:50_000], first, "streamed before the upstream has sent all")
	second := get(http.MethodGet, info.URL, "")
	o.gate.open(1<<40, nil)
	part := get(http.MethodGet, info.URL, "bytes=1000-1999")
	require.Equal(t, http.StatusPartialContent, part.StatusCode)
	got, err := io.ReadAll(part.Body)
	require.NoError(t, err)
	require.Equal(t, file[1000:2000], got)
	got, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, file[50_000:], got)
	got, err = io.ReadAll(second.Body)
	require.NoError(t, err)
	require.Equal(t, file, got)
	require.Eventually(t, func() bool {
		_, err := near.Info(t.Context(), lib.StorePath.HashPart())
		return err == nil
	}, 10*time.Second, 5*time.Millisecond, "kept")

	// From now on it is here.
	asked := o.count("")
	require.NoError(t, store.Verify(t.Context(), all, lib))
	require.Equal(t, http.StatusOK, get(http.MethodGet, string(lib.StorePath.HashPart())+".narinfo", "").StatusCode)
	require.Equal(t, asked, o.count(""))
}
