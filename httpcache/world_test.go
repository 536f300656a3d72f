package httpcache_test

import (
	"bytes"
	"context"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

const (
	absentHash    = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"
	absentNarHash = "0000000000000000000000000000000000000000000000000000"
	drvBase       = "0000000000000000000000000000000a-tool.drv"
	realisationID = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855!out"
	buildID       = "0123456789abcdef0123456789abcdef01234567"
	debugMember   = "lib/debug/.build-id/01/23456789abcdef0123456789abcdef01234567.debug"
)

// world is a store with one of everything, or empty if it has no tool.
type world struct {
	*storetest.Memory
	tool  *narinfo.Info // refers to lib; derived from drvBase
	lib   *narinfo.Info
	other *narinfo.Info // refers to nothing, nothing to it
}

var (
	_ store.Derivers        = (*world)(nil)
	_ store.DebugInfoFinder = (*world)(nil)
)

func newWorld() *world {
	w := &world{Memory: &storetest.Memory{}}
	w.lib = w.Add("lib", storetest.Files{"": strings.Repeat("0123456789", 10_000)})
	w.tool = w.Add("tool", storetest.Files{
		"bin/tool":        "#!/bin/sh\necho hello\n",
		"share/README":    "plain text, with ümlauts",
		"share/binary":    "\x00\x01\x02\x03",
		"share/page.html": "<!DOCTYPE html><script>alert(1)</script>",
		"share/dot.png":   "\x89PNG\r\n\x1a\n rest",
		"share/empty":     "",
		"share/link":      "-> README",
		"share/up":        "-> ../bin",
		"share/etc":       "-> /etc/passwd",
		"share/out":       "-> ../../escape",
		"share/loop":      "-> loop",
		"share/<b>&\"'":   "hostile name",
		"share/a%2Fb?#":   "name for URLs",
		debugMember:       "debug symbols",
	}, w.lib.StorePath)
	w.other = w.Add("other", storetest.Files{"": "other"})
	w.AddLog(drv(), "building\nbuilt\n")
	w.AddRealisation(realisationID, `{"id":"`+realisationID+`","outPath":"`+w.tool.StorePath.Base()+`"}`)
	w.AddRealisation(drvBase+"^out", `{"outPath":"`+w.tool.StorePath.Base()+`","signatures":[]}`)
	return w
}

func drv() narinfo.StorePath { return narinfo.StorePath("/nix/store/" + drvBase) }

func (w *world) DerivedPaths(_ context.Context, d narinfo.StorePath) iter.Seq2[narinfo.StorePath, error] {
	return func(yield func(narinfo.StorePath, error) bool) {
		if d == drv() && w.tool != nil {
			yield(w.tool.StorePath, nil)
		}
	}
}

func (w *world) DebugInfo(_ context.Context, id string) (narinfo.StorePath, string, error) {
	if id != buildID || w.tool == nil {
		return "", "", store.ErrNotFound
	}
	return w.tool.StorePath, debugMember, nil
}

// urls are one URL of each kind that there is, about the tool.
func (w *world) urls() map[string]string {
	hash, narHash := string(w.tool.StorePath.HashPart()), w.tool.NarHash.Base32()
	return map[string]string{
		"cache info":       "/nix-cache-info",
		"narinfo":          "/" + hash + ".narinfo",
		"narinfo as JSON":  "/" + hash + ".narinfo?json",
		"NAR":              "/nar/" + hash + "-" + narHash + ".nar",
		"harmonia's NAR":   "/nar/" + narHash + ".nar?hash=" + hash,
		"nix-serve's NAR":  "/nar/" + hash + ".nar",
		"listing":          "/" + hash + ".ls",
		"log":              "/log/" + drvBase,
		"realisation":      "/realisations/" + realisationID + ".doi",
		"escaped id":       "/realisations/" + strings.ReplaceAll(realisationID, "!", "%21") + ".doi",
		"build trace":      "/build-trace-v2/" + drvBase + "/out.doi",
		"debug info":       "/debuginfo/" + buildID,
		"debug info file":  "/debuginfo/" + buildID + ".debug",
		"file":             "/serve/" + hash + "/bin/tool",
		"directory":        "/serve/" + hash + "/share/",
		"root":             "/serve/" + hash + "/",
		"directory, bare":  "/serve/" + hash + "/share",
		"landing page":     "/",
		"health":           "/healthz",
		"absent narinfo":   "/" + absentHash + ".narinfo",
		"malformed":        "/nope.narinfo",
		"nothing":          "/favicon.ico",
		"other's old file": "/nar/" + absentNarHash + ".nar.xz",
	}
}

func newHandler(t testing.TB, s store.Store, opts *httpcache.Options) *httpcache.Handler {
	t.Helper()
	h, err := httpcache.New(s, opts)
	require.NoError(t, err)
	return h
}

func newKey(t testing.TB, name string) *signing.SecretKey {
	t.Helper()
	k, err := signing.GenerateKey(name)
	require.NoError(t, err)
	return k
}

// request asks h without a network. headers are name, value, name, value …
func request(h http.Handler, method, url string, headers ...string) *http.Response {
	r := httptest.NewRequest(method, url, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func get(h http.Handler, url string, headers ...string) *http.Response {
	return request(h, http.MethodGet, url, headers...)
}

func body(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(b)
}

func archiveOf(t testing.TB, s store.Store, info *narinfo.Info) []byte {
	t.Helper()
	r, err := s.Open(t.Context(), info)
	require.NoError(t, err)
	var b bytes.Buffer
	_, err = b.ReadFrom(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return b.Bytes()
}
