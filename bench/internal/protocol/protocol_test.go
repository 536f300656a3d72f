package protocol_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/bench/internal/madestore"
	"github.com/voidnxlab/nixtrap/bench/internal/protocol"
	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/localstore"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

const (
	buildID     = "0123456789abcdef0123456789abcdef01234567"
	debugMember = "lib/debug/.build-id/01/23456789abcdef0123456789abcdef01234567.debug"
	drv         = narinfo.StorePath("/nix/store/0000000000000000000000000000000a-app.drv")
)

// world is a store in memory with something for each check.
type world struct {
	*storetest.Memory
	app *narinfo.Info
}

func (w world) DebugInfo(_ context.Context, id string) (narinfo.StorePath, string, error) {
	if id != buildID {
		return "", "", store.ErrNotFound
	}
	return w.app.StorePath, debugMember, nil
}

func newWorld() world {
	m := &storetest.Memory{}
	random := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	lib := m.Add("lib", storetest.Files{"lib/lib.so": string(noise), "lib/link": "-> lib.so"})
	app := m.Add("app", storetest.Files{
		"bin/app": "#!/bin/sh\n", "share/a b#?%": "odd name", debugMember: "symbols",
	}, lib.StorePath)
	app.Deriver = drv
	for _, e := range m.Entries() {
		if e.Info.StorePath == app.StorePath {
			m.AddInfo(app, e.NAR)
		}
	}
	m.AddLog(drv, "building\n")
	return world{m, app}
}

// dump opens an archive of the world.
func (w world) dump(_ context.Context, path narinfo.StorePath) (io.ReadCloser, error) {
	for _, e := range w.Entries() {
		if e.Info.StorePath == path {
			return io.NopCloser(bytes.NewReader(e.NAR)), nil
		}
	}
	return nil, protocol.ErrNoDump
}

// subject is a server of the world, signed, with something done to its handler.
func (w world) subject(t *testing.T, change func(http.Handler) http.Handler) *protocol.Subject {
	t.Helper()
	key, err := signing.GenerateKey("key-1")
	require.NoError(t, err)
	var h http.Handler
	h, err = httpcache.New(w, &httpcache.Options{Keys: []*signing.SecretKey{key}})
	require.NoError(t, err)
	if change != nil {
		h = change(h)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	s := &protocol.Subject{URL: server.URL, Keys: signing.Keyring{key.Public()}, Dump: w.dump, Slowly: 50 * time.Millisecond}
	for _, e := range w.Entries() {
		s.Paths = append(s.Paths, e.Info.StorePath)
	}
	return s
}

func outcomes(t *testing.T, s *protocol.Subject) map[string]protocol.Result {
	t.Helper()
	results, err := protocol.Check(t.Context(), s)
	require.NoError(t, err)
	got := make(map[string]protocol.Result)
	for _, r := range results {
		got[r.Check] = r
	}
	return got
}

const realisations = "realisations" // none is known, so none is asked for that is there

func TestOurHandlerConforms(t *testing.T) {
	for name, r := range outcomes(t, newWorld().subject(t, nil)) {
		if name == realisations {
			require.Equal(t, protocol.Absent, r.Outcome)
			continue
		}
		require.Equal(t, protocol.Passed, r.Outcome, "%s: %s", name, r.Reason)
	}
}

func TestALocalStoreConforms(t *testing.T) {
	m := &madestore.Store{Dir: t.TempDir(), Files: 3, FileSize: 1 << 20}
	require.NoError(t, m.Make(t.Context()))
	o, err := localstore.ParseURI(m.URI())
	require.NoError(t, err)
	local, err := localstore.Open(t.Context(), o)
	require.NoError(t, err)
	defer local.Close()
	h, err := httpcache.New(local, nil)
	require.NoError(t, err)
	server := httptest.NewServer(http.StripPrefix("/below", h))
	defer server.Close()
	s := &protocol.Subject{URL: server.URL + "/below/", Slowly: 50 * time.Millisecond}
	s.Dump = func(ctx context.Context, path narinfo.StorePath) (io.ReadCloser, error) {
		var b bytes.Buffer
		err := nar.Pack(ctx, &b, filepath.Join(m.Dir, "store", path.Base()))
		return io.NopCloser(&b), err
	}
	for _, p := range m.Real {
		s.Paths = append(s.Paths, narinfo.StorePath(p.Path))
	}
	for name, r := range outcomes(t, s) {
		require.NotEqual(t, protocol.Failed, r.Outcome, "%s: %s", name, r.Reason)
	}
}

func TestWhatCannotBeCheckedAtAll(t *testing.T) {
	w := newWorld()
	good := w.subject(t, nil)
	for name, change := range map[string]func(s *protocol.Subject){
		"no URL":      func(s *protocol.Subject) { s.URL = "127.0.0.1:80" },
		"no paths":    func(s *protocol.Subject) { s.Paths = nil },
		"no server":   func(s *protocol.Subject) { s.URL = "http://127.0.0.1:1" },
		"absent path": func(s *protocol.Subject) { s.Paths = []narinfo.StorePath{drv} },
	} {
		s := *good
		change(&s)
		_, err := protocol.Check(t.Context(), &s)
		require.Error(t, err, name)
	}
}

// A server that has only what Nix needs, such as files on a disk behind one that knows no ranges.
func TestABareServerFailsNothing(t *testing.T) {
	w := newWorld()
	for name, r := range outcomes(t, w.subject(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			bare := strings.HasSuffix(r.URL.Path, ".narinfo") || strings.HasPrefix(r.URL.Path, "/nar/") || r.URL.Path == "/nix-cache-info"
			if !bare {
				http.NotFound(rw, r)
				return
			}
			r.URL.RawQuery = ""
			for _, name := range []string{"Range", "If-Range", "If-None-Match"} {
				r.Header.Del(name)
			}
			answer := httptest.NewRecorder()
			h.ServeHTTP(answer, r)
			rw.Header().Set("Content-Length", answer.Header().Get("Content-Length"))
			rw.Header().Set("Content-Type", "application/octet-stream")
			rw.WriteHeader(answer.Code)
			_, _ = rw.Write(answer.Body.Bytes())
		})
	})) {
		require.NotEqual(t, protocol.Failed, r.Outcome, "%s: %s", name, r.Reason)
	}
}

// recorder is an answer that a saboteur changes.
type recorder = httptest.ResponseRecorder

// broken changes what h answers to requests that match.
func broken(match func(r *http.Request) bool, change func(r *http.Request, a *recorder)) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !match(r) {
				h.ServeHTTP(w, r)
				return
			}
			a := httptest.NewRecorder()
			h.ServeHTTP(a, r)
			length := a.Body.Len()
			change(r, a)
			for name, values := range a.Header() {
				w.Header()[name] = values
			}
			if r.Method != http.MethodHead && a.Body.Len() != length {
				w.Header().Set("Content-Length", fmt.Sprint(a.Body.Len()))
			}
			w.WriteHeader(a.Code)
			_, _ = w.Write(a.Body.Bytes())
		})
	}
}

func body(a *recorder, text string)  { a.Body = bytes.NewBufferString(text) }
func anything(*http.Request) bool    { return true }
func isHEAD(r *http.Request) bool    { return r.Method == http.MethodHead }
func isJSON(r *http.Request) bool    { return r.URL.RawQuery == "json" }
func isNAR(r *http.Request) bool     { return strings.HasPrefix(r.URL.Path, "/nar/") }
func isNarinfo(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, ".narinfo") }

// with matches requests with a header.
func with(header string) func(*http.Request) bool {
	return func(r *http.Request) bool { return isNAR(r) && r.Header.Get(header) != "" }
}

func under(prefix string) func(*http.Request) bool {
	return func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, prefix) }
}

// info changes a narinfo.
func info(change func(i *narinfo.Info)) func(r *http.Request, a *recorder) {
	return func(_ *http.Request, a *recorder) {
		i, err := narinfo.Parse(a.Body.Bytes())
		if err != nil {
			return
		}
		change(i)
		text, err := i.MarshalText()
		if err != nil {
			panic(err)
		}
		body(a, string(text))
	}
}

func flip(_ *http.Request, a *recorder) {
	if b := a.Body.Bytes(); len(b) > 0 {
		b[len(b)/2] ^= 1
	}
}

func status(code int) func(*http.Request, *recorder) {
	return func(_ *http.Request, a *recorder) { a.Code = code }
}

// lost is a status only where there was nothing before.
func lost(code int) func(*http.Request, *recorder) {
	return func(_ *http.Request, a *recorder) {
		if a.Code == http.StatusNotFound {
			a.Code = code
		}
	}
}

func setHeader(name, value string) func(*http.Request, *recorder) {
	return func(_ *http.Request, a *recorder) { a.Header().Set(name, value) }
}

// without answers as if the request had no such header.
func without(name string) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del(name)
			h.ServeHTTP(w, r)
		})
	}
}

// unframed answers archives with nothing that says where they end.
func unframed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isNAR(r) {
			h.ServeHTTP(w, r)
			return
		}
		a := httptest.NewRecorder()
		h.ServeHTTP(a, r)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 %d X\r\nConnection: close\r\n\r\n", a.Code)
		_, _ = conn.Write(a.Body.Bytes())
	})
}

// chatty sends bodies with HEAD.
func chatty(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodHead {
			h.ServeHTTP(w, r)
			return
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		r.Method = http.MethodGet
		a := httptest.NewRecorder()
		h.ServeHTTP(a, r)
		_ = a.Result().Write(conn)
		_ = a.Result().Write(conn)
	})
}

// impatient cuts who takes longer than a moment.
func impatient(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "" && isNAR(r) && r.Method == http.MethodGet {
			a := httptest.NewRecorder()
			h.ServeHTTP(a, r)
			w.Header().Set("Content-Length", fmt.Sprint(a.Body.Len()))
			_, _ = w.Write(a.Body.Bytes()[:a.Body.Len()/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	})
}

var saboteurs = []struct {
	name, check string
	change      func(http.Handler) http.Handler
}{
	{"other store", "nix-cache-info names", broken(under("/nix-cache-info"), func(_ *http.Request, a *recorder) {
		body(a, "StoreDir: /gnu/store\n")
	})},
	{"no cache info", "nix-cache-info names", broken(under("/nix-cache-info"), status(404))},
	{"other path", "narinfos are of the paths", broken(isNarinfo, info(func(i *narinfo.Info) { i.StorePath = drv }))},
	{"field order", "narinfos are canonical", broken(isNarinfo, func(_ *http.Request, a *recorder) {
		if first, rest, ok := strings.Cut(a.Body.String(), "\n"); ok && a.Code == 200 {
			body(a, rest+first+"\n")
		}
	})},
	{"unsigned", "narinfos have a valid signature", broken(isNarinfo, info(func(i *narinfo.Info) {
		i.Signatures = nil
	}))},
	{"signature of another path", "narinfos have a valid signature", broken(isNarinfo, info(func(i *narinfo.Info) {
		i.NarSize++
	}))},
	{"URL out of the cache", "narinfos name archives", broken(isNarinfo, info(func(i *narinfo.Info) {
		i.URL = "../" + i.URL
	}))},
	{"no compression", "narinfos name archives", broken(isNarinfo, info(func(i *narinfo.Info) { i.Compression = "" }))},
	{"JSON of another size", "narinfo as JSON", broken(isJSON, func(_ *http.Request, a *recorder) {
		body(a, strings.Replace(a.Body.String(), `"narSize":`, `"narSize":1`, 1))
	})},
	{"JSON that is none", "narinfo as JSON", broken(isJSON, func(_ *http.Request, a *recorder) { body(a, "{") })},
	{"absence as a fault", "absent paths are 404", broken(isNarinfo, lost(500))},
	{"absence as 403", "absent paths are 404", broken(isNAR, lost(403))},
	{"a byte", "archives are what the narinfos say", broken(isNAR, flip)},
	{"file size", "archives are what the narinfos say", broken(isNarinfo, info(func(i *narinfo.Info) {
		i.FileSize++
	}))},
	{"file hash", "archives are what the narinfos say", broken(isNarinfo, info(func(i *narinfo.Info) {
		i.FileHash, _ = narinfo.NewHash(narinfo.SHA256, make([]byte, 32))
	}))},
	{"a byte", "archives are the local store's", broken(isNAR, flip)},
	{"more", "archives are the local store's", broken(isNAR, func(_ *http.Request, a *recorder) {
		a.Body.WriteByte(0)
	})},
	{"less", "archives are the local store's", broken(isNAR, func(_ *http.Request, a *recorder) {
		a.Body.Truncate(max(0, a.Body.Len()-1))
	})},
	{"encoding", "no Content-Encoding", broken(with("Accept-Encoding"), setHeader("Content-Encoding", "zstd"))},
	{"unframed", "an archive that is cut can be told", unframed},
	{"ranges are not", "ranges are where", without("Range")},
	{"ranges are not", "a range is 206", without("Range")},
	{"a byte of a range", "a range is 206", broken(with("Range"), flip)},
	{"total of a range", "a range is 206", broken(with("Range"), setHeader("Content-Range", "bytes 0-0/1"))},
	{"beyond the end is 200", "a range behind the end", broken(with("Range"), func(_ *http.Request, a *recorder) {
		if a.Code == 416 {
			a.Code = 200
		}
	})},
	{"416 without a size", "a range behind the end", broken(with("Range"), func(_ *http.Request, a *recorder) {
		if a.Code == 416 {
			a.Header().Del("Content-Range")
		}
	})},
	{"absurd ranges are faults", "what is no range", broken(with("Range"), func(r *http.Request, a *recorder) {
		if r.Header.Get("Range") == "items=0-1" {
			a.Code = 500
		}
	})},
	{"half an answer to an absurd range", "what is no range", broken(with("Range"), func(r *http.Request, a *recorder) {
		if a.Code == 200 {
			a.Body.Truncate(10)
		}
	})},
	{"If-Range is ignored", "If-Range", without("If-Range")},
	{"If-None-Match is ignored", "If-None-Match", without("If-None-Match")},
	{"always 304", "If-None-Match", broken(with("If-None-Match"), func(_ *http.Request, a *recorder) {
		a.Code = 304
		body(a, "")
	})},
	{"body with HEAD", "HEAD is GET", chatty},
	{"HEAD says less", "HEAD is GET", broken(isHEAD, func(_ *http.Request, a *recorder) { a.Header().Del("ETag") })},
	{"HEAD finds everything", "HEAD is GET", broken(isHEAD, status(200))},
	{"listing of another", "listings are", broken(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, ".ls") }, func(_ *http.Request, a *recorder) {
		body(a, strings.Replace(a.Body.String(), `"narOffset":`, `"narOffset":1`, 1))
	})},
	{"log is a fault", "logs of", broken(under("/log/"), status(500))},
	{"log is compressed", "logs of", broken(under("/log/"), func(_ *http.Request, a *recorder) { body(a, "BZh91AY") })},
	{"realisation is a fault", "realisations", broken(under("/realisations/"), lost(500))},
	{"debug info of nothing", "debug info", broken(under("/debuginfo/"), func(_ *http.Request, a *recorder) {
		body(a, `{"archive":"../nar/x.nar","member":"`+debugMember+`"}`)
	})},
	{"debug info elsewhere", "debug info", broken(under("/debuginfo/"), func(_ *http.Request, a *recorder) {
		body(a, `{"archive":"../nar/x.nar","member":"x"}`)
	})},
	{"file of another", "files out of paths", broken(under("/serve/"), flip)},
	{"malformed is a fault", "malformed requests", broken(anything, func(_ *http.Request, a *recorder) {
		if a.Code == 400 {
			a.Code = 500
		}
	})},
	{"malformed is fine", "malformed requests", broken(anything, func(_ *http.Request, a *recorder) {
		if a.Code == 400 {
			a.Code = 200
		}
	})},
	{"anybody writes", "other methods", broken(func(r *http.Request) bool { return r.Method == "PUT" }, status(201))},
	{"errors close", "connections outlive", broken(anything, func(_ *http.Request, a *recorder) {
		if a.Code == 404 {
			a.Header().Set("Connection", "close")
		}
	})},
	{"resumed elsewhere", "a transfer that is cut", broken(with("Range"), flip)},
	{"not resumed", "a transfer that is cut", without("Range")},
	{"impatient", "a slow reader", impatient},
}

func TestEachCheckCanFail(t *testing.T) {
	caught := make(map[string]bool)
	for _, test := range saboteurs {
		t.Run(test.check+"/"+test.name, func(t *testing.T) {
			for name, r := range outcomes(t, newWorld().subject(t, test.change)) {
				if strings.HasPrefix(name, test.check) {
					require.Equal(t, protocol.Failed, r.Outcome, "%s: %s", name, r.Reason)
					require.NotEmpty(t, r.Reason)
					caught[name] = true
				}
			}
		})
	}
	for _, name := range protocol.Names() {
		require.True(t, caught[name], "no saboteur for %q", name)
	}
}
