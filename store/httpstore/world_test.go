package httpstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/archivetest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/httpstore"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// sample is a store with a path of some size, references and a single file.
func sample() *storetest.Memory {
	m := &storetest.Memory{}
	libc := m.Add("libc-2.37", storetest.Files{"lib/libc.so": noise(20_000), "bin/sh": "#!/bin/sh\n", "empty/": ""})
	lib := m.Add("lib-1", storetest.Files{"lib": "-> " + string(libc.StorePath), "x": "x"}, libc.StorePath)
	m.Add("tool", storetest.Files{"bin/tool": "#!/bin/sh\n"}, lib.StorePath, libc.StorePath)
	m.Add("source.txt", storetest.Files{"": "one file"})
	return m
}

// noise compresses to about a half.
func noise(n int) string {
	rng := rand.New(rand.NewPCG(1, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32() & 15)
	}
	return string(b)
}

func sha(b []byte) narinfo.Hash {
	digest := sha256.Sum256(b)
	h, err := narinfo.NewHash(narinfo.SHA256, digest[:])
	if err != nil {
		panic(err)
	}
	return h
}

// upstream is a binary cache in memory, which can be made to misbehave.
type upstream struct {
	key *signing.SecretKey

	mu     sync.Mutex // guards what follows
	files  map[string][]byte
	asked  map[string]int
	before http.HandlerFunc // answers first, if it writes anything; nil: nobody does
}

// newUpstream holds entries, compressed, signed, and edited by edit if it isn't nil.
func newUpstream(t testing.TB, compression string, entries []storetest.Entry, edit func(*narinfo.Info, *[]byte)) *upstream {
	t.Helper()
	key, err := signing.GenerateKey("upstream-1")
	require.NoError(t, err)
	u := &upstream{key: key, files: map[string][]byte{}, asked: map[string]int{}}
	u.files["/nix-cache-info"] = []byte("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n")
	for _, e := range entries {
		info, file := e.Info.Clone(), archivetest.Compress(t, compression, e.NAR)
		info.FileHash, info.FileSize, info.Compression = sha(file), int64(len(file)), compression
		info.URL = "nar/" + info.FileHash.Base32() + ".nar." + compression
		info.Sign(key)
		if edit != nil {
			edit(info, &file)
		}
		u.putInfo(t, info)
		path, _, _ := strings.Cut(info.URL, "?")
		u.put("/"+path, file)
	}
	return u
}

func (u *upstream) put(path string, file []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[path] = file
}

func (u *upstream) putInfo(t testing.TB, info *narinfo.Info) {
	t.Helper()
	text, err := info.MarshalText()
	require.NoError(t, err)
	u.put("/"+string(info.StorePath.HashPart())+".narinfo", text)
}

func (u *upstream) remove(path string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.files, path)
}

// interfere has h called before all else.
func (u *upstream) interfere(h http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.before = h
}

// count returns how often paths that contain part were asked for.
func (u *upstream) count(part string) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for path, k := range u.asked {
		if strings.Contains(path, part) {
			n += k
		}
	}
	return n
}

// touched notices whether a handler answered.
type touched struct {
	http.ResponseWriter
	done bool
}

func (w *touched) WriteHeader(status int) {
	w.done = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *touched) Write(p []byte) (int, error) {
	w.done = true
	return w.ResponseWriter.Write(p)
}

func (w *touched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.asked[r.URL.Path]++
	file, ok := u.files[r.URL.Path]
	before := u.before
	u.mu.Unlock()
	if before != nil {
		t := &touched{ResponseWriter: w}
		if before(t, r); t.done {
			return
		}
	}
	if !ok {
		http.Error(w, "not here", http.StatusNotFound)
		return
	}
	w.Header().Set("Etag", `"`+sha(file).Base32()+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
}

// serve starts the upstream on the loopback.
func (u *upstream) serve(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(u)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(server.Close)
	return server.URL
}

// options trust the upstream.
func (u *upstream) options() *httpstore.Options {
	return &httpstore.Options{TrustedKeys: signing.Keyring{u.key.Public()}}
}

func newStore(t testing.TB, url string, o *httpstore.Options) *httpstore.Store {
	t.Helper()
	s, err := httpstore.New(url, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func infoOf(t testing.TB, s store.Store, e storetest.Entry) *narinfo.Info {
	t.Helper()
	info, err := s.Info(t.Context(), e.Info.StorePath.HashPart())
	require.NoError(t, err)
	return info
}

// readNAR reads a path's NAR.
func readNAR(ctx context.Context, s store.Store, info *narinfo.Info) ([]byte, error) {
	r, err := s.Open(ctx, info)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// readArchive reads a path's archive as it is.
func readArchive(ctx context.Context, s store.ArchiveOpener, info *narinfo.Info) ([]byte, error) {
	f, err := s.OpenArchive(ctx, info)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
