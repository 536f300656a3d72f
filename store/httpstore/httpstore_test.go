package httpstore_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
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

func TestConformance(t *testing.T) {
	for _, compression := range []string{"none", "zstd", "xz", "gzip"} {
		t.Run(compression, func(t *testing.T) {
			storetest.Test(t, func(t *testing.T) storetest.Fixture {
				entries := sample().Entries()
				u := newUpstream(t, compression, entries, nil)
				return storetest.Fixture{Store: newStore(t, u.serve(t), u.options()), Entries: entries}
			})
		})
	}
	t.Run("without FileHash and FileSize", func(t *testing.T) {
		storetest.Test(t, func(t *testing.T) storetest.Fixture {
			entries := sample().Entries()
			u := newUpstream(t, "zstd", entries, func(i *narinfo.Info, _ *[]byte) { i.FileHash, i.FileSize = narinfo.Hash{}, 0 })
			return storetest.Fixture{Store: newStore(t, u.serve(t), u.options()), Entries: entries}
		})
	})
}

// Whatever URL a narinfo has, what is there is read.
func TestURLShapes(t *testing.T) {
	for name, url := range map[string]func(i *narinfo.Info, base string) string{
		"snix":      func(*narinfo.Info, string) string { return "nar/snix-castore/CgISIAA_-x=?narsize=1&x=%2F" },
		"hash part": func(i *narinfo.Info, _ string) string { return "nar/" + string(i.StorePath.HashPart()) + ".nar" },
		"nix-serve": func(i *narinfo.Info, _ string) string {
			return "nar/" + string(i.StorePath.HashPart()) + "-" + i.NarHash.Base32() + ".nar"
		},
		"harmonia": func(i *narinfo.Info, _ string) string {
			return "nar/" + i.NarHash.Base32() + ".nar?hash=" + string(i.StorePath.HashPart())
		},
		"absolute":   func(_ *narinfo.Info, base string) string { return base + "/elsewhere/x.nar" },
		"dots":       func(*narinfo.Info, string) string { return "../up/x.nar" },
		"from root":  func(*narinfo.Info, string) string { return "/up/x.nar" },
		"escaped":    func(*narinfo.Info, string) string { return "nar/a%20b%2Fc.nar" },
		"same place": func(*narinfo.Info, string) string { return "./nar/x.nar" },
	} {
		t.Run(name, func(t *testing.T) {
			e := sample().Entries()[0]
			u := newUpstream(t, "none", nil, nil)
			base := u.serve(t)
			info := e.Info.Clone()
			info.URL, info.Compression = url(info, base), "none"
			info.Sign(u.key)
			text, err := info.MarshalText()
			require.NoError(t, err)
			var asked atomic.Value
			u.interfere(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, ".narinfo") {
					w.Write(text)
					return
				}
				asked.Store(r.RequestURI)
				require.Equal(t, "identity", r.Header.Get("Accept-Encoding"))
				w.Write(e.NAR)
			})
			s := newStore(t, base+"/cache", u.options())
			got, err := readNAR(t.Context(), s, infoOf(t, s, e))
			require.NoError(t, err)
			require.Equal(t, e.NAR, got)
			want := strings.TrimPrefix(info.URL, base)
			want = strings.TrimPrefix(strings.TrimPrefix(want, ".."), "./")
			if !strings.HasPrefix(want, "/") {
				want = "/cache/" + want
			}
			require.Equal(t, want, asked.Load())
			got, err = readArchive(t.Context(), s, info)
			require.NoError(t, err)
			require.Equal(t, e.NAR, got)
		})
	}
}

func TestURLsThatLeadElsewhereAreRefused(t *testing.T) {
	e := sample().Entries()[0]
	var asked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(other.Close)
	for _, url := range []string{
		other.URL + "/x.nar", "//example.org/x.nar", "https://127.0.0.1/x.nar", "file:///etc/passwd", "http://u:p@127.0.0.1/x", "%zz",
	} {
		u := newUpstream(t, "none", nil, nil)
		info := e.Info.Clone()
		info.URL, info.Compression = url, "none"
		info.Sign(u.key)
		u.putInfo(t, info)
		s := newStore(t, u.serve(t), u.options())
		_, err := s.Open(t.Context(), infoOf(t, s, e))
		require.ErrorIs(t, err, store.ErrCorrupt, url)
		_, err = s.Info(t.Context(), info.StorePath.HashPart())
		require.ErrorIs(t, err, store.ErrNotFound, "such a path is absent from then on")
	}
	require.Zero(t, asked.Load())
}

func TestTrust(t *testing.T) {
	// What "nix-store --add" made of a directory with one file.
	itself, err := narinfo.Parse([]byte("StorePath: /nix/store/qhr2hq2mkiszwi1xg99cl89vw8xsx3yl-d\nURL: nar/x.nar\nCompression: none\n" +
		"NarHash: sha256:19l59z9nbs59axnhw6iqsz5bdagqb22kf0dp2zhkiq5m4b6k5247\nNarSize: 288\nReferences: \n" +
		"CA: fixed:r:sha256:19l59z9nbs59axnhw6iqsz5bdagqb22kf0dp2zhkiq5m4b6k5247\n"))
	require.NoError(t, err)
	key, err := signing.GenerateKey("k-1")
	require.NoError(t, err)
	other, err := signing.GenerateKey("k-1")
	require.NoError(t, err)
	ring := signing.Keyring{key.Public()}
	signed := sample().Entries()[0].Info.Clone()
	signed.URL = "nar/x.nar"
	edited := func(i *narinfo.Info, edit func(*narinfo.Info)) *narinfo.Info {
		i = i.Clone()
		edit(i)
		return i
	}
	for name, c := range map[string]struct {
		info *narinfo.Info
		o    httpstore.Options
		ok   bool
	}{
		"signed":                    {edited(signed, func(i *narinfo.Info) { i.Sign(key) }), httpstore.Options{TrustedKeys: ring}, true},
		"unsigned":                  {signed, httpstore.Options{TrustedKeys: ring}, false},
		"unsigned, nobody asks":     {signed, httpstore.Options{InsecureIgnoreSignatures: true}, true},
		"signed by another":         {edited(signed, func(i *narinfo.Info) { i.Sign(other) }), httpstore.Options{TrustedKeys: ring}, false},
		"signed, no keys":           {edited(signed, func(i *narinfo.Info) { i.Sign(key) }), httpstore.Options{}, false},
		"signed, then changed":      {edited(signed, func(i *narinfo.Info) { i.Sign(key); i.NarSize++ }), httpstore.Options{TrustedKeys: ring}, false},
		"itself":                    {itself, httpstore.Options{}, true},
		"itself, another NAR":       {edited(itself, func(i *narinfo.Info) { i.NarHash = sha(nil) }), httpstore.Options{}, false},
		"itself, another reference": {edited(itself, func(i *narinfo.Info) { i.References = []narinfo.StorePath{signed.StorePath} }), httpstore.Options{}, false},
		"itself, to itself":         {edited(itself, func(i *narinfo.Info) { i.References = []narinfo.StorePath{i.StorePath} }), httpstore.Options{}, false},
		"itself, another name":      {edited(itself, func(i *narinfo.Info) { i.StorePath += "x" }), httpstore.Options{}, false},
		"another, both hashes": {edited(itself, func(i *narinfo.Info) {
			i.NarHash, i.CA = sha(nil), narinfo.ContentAddress("fixed:r:"+sha(nil).String())
		}), httpstore.Options{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t, "none", nil, nil)
			u.putInfo(t, c.info)
			s := newStore(t, u.serve(t), &c.o)
			got, err := s.Info(t.Context(), c.info.StorePath.HashPart())
			if c.ok {
				require.NoError(t, err)
				require.True(t, c.info.Equal(got))
				return
			}
			require.ErrorIs(t, err, store.ErrNotFound)
			require.ErrorIs(t, err, httpstore.ErrUntrusted)
		})
	}
	_, err = httpstore.New("http://x", &httpstore.Options{TrustedKeys: ring, InsecureIgnoreSignatures: true})
	require.ErrorContains(t, err, "signatures ignored")
}

func TestMalformedNarinfo(t *testing.T) {
	entries := sample().Entries()
	u := newUpstream(t, "none", entries, nil)
	path := "/" + string(entries[0].Info.StorePath.HashPart()) + ".narinfo"
	for name, text := range map[string]string{
		"nothing": "", "a page": "<html>hello</html>\n", "about another": string(u.files["/"+string(entries[1].Info.StorePath.HashPart())+".narinfo"]),
		"too long": strings.Repeat("Extra: x\n", narinfo.MaxSize/9+1),
	} {
		t.Run(name, func(t *testing.T) {
			u.put(path, []byte(text))
			o := u.options()
			o.LookupBudget = time.Minute
			s := newStore(t, u.serve(t), o)
			_, err := s.Info(t.Context(), entries[0].Info.StorePath.HashPart())
			require.ErrorIs(t, err, store.ErrCorrupt)
			require.NotErrorIs(t, err, store.ErrNotFound)
		})
	}
}

// Whatever is wrong with an archive, its end is never reached.
func TestNoEndOfAWrongArchive(t *testing.T) {
	flip := func(at int) func(*narinfo.Info, *[]byte) {
		return func(_ *narinfo.Info, file *[]byte) {
			*file = slices.Clone(*file)
			if at < 0 {
				at += len(*file)
			}
			(*file)[at%len(*file)] ^= 1
		}
	}
	bare := func(edit func(*narinfo.Info, *[]byte)) func(*narinfo.Info, *[]byte) {
		return func(i *narinfo.Info, file *[]byte) {
			edit(i, file)
			i.FileHash, i.FileSize = narinfo.Hash{}, 0
		}
	}
	cut := func(_ *narinfo.Info, file *[]byte) { *file = (*file)[:len(*file)-1] }
	more := func(_ *narinfo.Info, file *[]byte) { *file = append(slices.Clone(*file), 0) }
	for name, edit := range map[string]func(*narinfo.Info, *[]byte){
		"first byte": flip(0), "middle": flip(700), "last byte": flip(-1), "cut": cut, "more": more,
		"bare, middle": bare(flip(700)), "bare, cut": bare(cut), "bare, more": bare(more),
		"bare, empty":      bare(func(_ *narinfo.Info, file *[]byte) { *file = nil }),
		"bare, other path": bare(func(_ *narinfo.Info, file *[]byte) { *file = archivetest.Compress(t, "zstd", []byte("other")) }),
		"endless nothing": bare(func(_ *narinfo.Info, file *[]byte) {
			*file = append(slices.Clone(*file), bytesRepeat("\x50\x2a\x4d\x18\x00\x00\x00\x00", 400_000)...) // skippable frames
		}),
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/chunked=%v", name, chunked), func(t *testing.T) {
				entries := sample().Entries()
				u := newUpstream(t, "zstd", entries, edit)
				if chunked {
					u.interfere(u.chunked)
				}
				o := u.options()
				o.NegativeTTL = -1
				s := newStore(t, u.serve(t), o)
				for _, e := range entries {
					info := infoOf(t, s, e)
					got, err := readArchive(t.Context(), s, info)
					require.Error(t, err, "archive")
					require.Less(t, int64(len(got)), max(1, int64(len(u.files["/"+info.URL])), info.FileSize))
					got, err = readNAR(t.Context(), s, info)
					require.Error(t, err, "NAR")
					require.Less(t, len(got), len(e.NAR))
				}
			})
		}
	}
}

func bytesRepeat(s string, n int) []byte { return []byte(strings.Repeat(s, n)) }

// chunked answers without a Content-Length.
func (u *upstream) chunked(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, "/nar/") {
		return
	}
	u.mu.Lock()
	file := u.files[r.URL.Path]
	u.mu.Unlock()
	w.WriteHeader(http.StatusOK)
	w.(*touched).ResponseWriter.(http.Flusher).Flush()
	w.Write(file)
}

// A damaged or absent archive makes its path absent for a while, and no longer.
func TestDamagedPathIsAbsentForAWhile(t *testing.T) {
	for name, spoil := range map[string]func(u *upstream, url string){
		"absent": func(u *upstream, url string) { u.remove(url) },
		"wrong":  func(u *upstream, url string) { u.put(url, make([]byte, len(u.files[url]))) },
	} {
		t.Run(name, func(t *testing.T) {
			e := sample().Entries()[0]
			u := newUpstream(t, "xz", []storetest.Entry{e}, nil)
			o := u.options()
			var damaged atomic.Int32
			o.Trace = &httpstore.Trace{Damaged: func(narinfo.StorePath) { damaged.Add(1) }}
			s := newStore(t, u.serve(t), o)
			info := infoOf(t, s, e)
			spoil(u, "/"+info.URL)
			_, err := readNAR(t.Context(), s, info)
			require.Error(t, err)
			_, err = s.Info(t.Context(), info.StorePath.HashPart())
			require.ErrorIs(t, err, store.ErrNotFound)
			require.EqualValues(t, map[string]int{"absent": 0, "wrong": 1}[name], damaged.Load())
		})
	}
}

func TestContentEncodings(t *testing.T) {
	for _, encoding := range []string{"gzip", "zstd"} {
		t.Run(encoding, func(t *testing.T) {
			e := sample().Entries()[0]
			u := newUpstream(t, "xz", []storetest.Entry{e}, nil)
			u.interfere(func(w http.ResponseWriter, r *http.Request) {
				u.mu.Lock()
				file, ok := u.files[r.URL.Path]
				u.mu.Unlock()
				if ok {
					w.Header().Set("Content-Encoding", encoding)
					w.Write(archivetest.Compress(t, encoding, file))
				}
			})
			s := newStore(t, u.serve(t), u.options())
			info := infoOf(t, s, e)
			got, err := readNAR(t.Context(), s, info)
			require.NoError(t, err)
			require.Equal(t, e.NAR, got)
			got, err = readArchive(t.Context(), s, info)
			require.NoError(t, err)
			require.Equal(t, info.FileHash, sha(got))
		})
	}
}

// A path without FileHash whose compression nobody knows cannot be proved; with one it is passed on as it is.
func TestUnknownCompression(t *testing.T) {
	e := sample().Entries()[0]
	u := newUpstream(t, "none", []storetest.Entry{e}, func(i *narinfo.Info, _ *[]byte) { i.Compression = "br" })
	s := newStore(t, u.serve(t), u.options())
	info := infoOf(t, s, e)
	got, err := readArchive(t.Context(), s, info)
	require.NoError(t, err)
	require.Equal(t, e.NAR, got)
	_, err = s.Open(t.Context(), info)
	require.ErrorIs(t, err, store.ErrUnsupported)

	u = newUpstream(t, "none", []storetest.Entry{e}, func(i *narinfo.Info, _ *[]byte) { i.Compression, i.FileHash = "br", narinfo.Hash{} })
	s = newStore(t, u.serve(t), u.options())
	_, err = s.OpenArchive(t.Context(), infoOf(t, s, e))
	require.ErrorIs(t, err, store.ErrUnsupported)
}

func TestCacheInfo(t *testing.T) {
	u := newUpstream(t, "none", nil, nil)
	s := newStore(t, u.serve(t), nil)
	info, err := s.CacheInfo(t.Context())
	require.NoError(t, err)
	require.Equal(t, narinfo.CacheInfo{StoreDir: "/nix/store", WantMassQuery: true, Priority: 40}, info)
	_, err = s.Priority(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, u.count("nix-cache-info"))

	s = newStore(t, u.serve(t), &httpstore.Options{Priority: 7})
	priority, err := s.Priority(t.Context())
	require.NoError(t, err)
	require.Equal(t, 7, priority)

	u.remove("/nix-cache-info")
	s = newStore(t, u.serve(t), nil)
	priority, err = s.Priority(t.Context())
	require.NoError(t, err)
	require.Equal(t, httpstore.DefaultPriority, priority)

	u.put("/nix-cache-info", []byte("StoreDir: /gnu/store\n"))
	_, err = newStore(t, u.serve(t), nil).CacheInfo(t.Context())
	require.ErrorContains(t, err, `"/gnu/store"`)
}

func TestLogsAndRealisations(t *testing.T) {
	u := newUpstream(t, "none", nil, nil)
	drv := narinfo.StorePath("/nix/store/00000000000000000000000000000000-x.drv")
	id := "sha256:" + strings.Repeat("a", 64) + "!out"
	u.put("/log/"+drv.Base(), archivetest.Compress(t, "xz", []byte("built\n")))
	u.put("/realisations/"+id+".doi", []byte(`{"id":1}`))
	s := newStore(t, u.serve(t), nil)
	r, err := s.OpenLog(t.Context(), drv)
	require.NoError(t, err)
	text, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, "built\n", string(text))
	doc, err := s.Realisation(t.Context(), id)
	require.NoError(t, err)
	require.JSONEq(t, `{"id":1}`, string(doc))
	u.put("/realisations/"+id+".doi", []byte(`<html>`))
	_, err = s.Realisation(t.Context(), id)
	require.ErrorIs(t, err, store.ErrCorrupt)
}

func TestLocalOnlyMakesNoRequest(t *testing.T) {
	entries := sample().Entries()
	u := newUpstream(t, "zstd", entries, nil)
	s := newStore(t, u.serve(t), u.options())
	info := infoOf(t, s, entries[0])
	before := u.count("")
	ctx := store.LocalOnly(t.Context())
	for _, err := range []error{
		second(s.Info(ctx, info.StorePath.HashPart())), second(s.Open(ctx, info)), second(s.OpenArchive(ctx, info)),
		second(s.Realisation(ctx, "sha256:"+strings.Repeat("a", 64)+"!out")), second(s.OpenLog(ctx, info.StorePath+".drv")),
	} {
		require.ErrorIs(t, err, store.ErrNotFound)
	}
	require.Equal(t, before, u.count(""))
}

func second[T any](_ T, err error) error { return err }

func TestAuthorization(t *testing.T) {
	e := sample().Entries()[0]
	var other atomic.Value
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		other.Store(r.Header.Get("Authorization"))
		w.Write(e.NAR)
	}))
	t.Cleanup(elsewhere.Close)
	u := newUpstream(t, "none", []storetest.Entry{e}, nil)
	u.interfere(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.Header.Get("Authorization") != "Bearer token" && (user != "me" || password != "secret:x") {
			w.WriteHeader(http.StatusUnauthorized)
		} else if strings.HasPrefix(r.URL.Path, "/nar/") {
			// Another name of this machine is another host to a client.
			http.Redirect(w, r, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)+"/x?signature=secret", http.StatusFound)
		}
	})
	url := u.serve(t)
	netrc := "# of mine\nmachine other login you password no\nmacdef x\nmachine 127.0.0.1\n\nmachine 127.0.0.1\n login me password \"secret:x\"\ndefault login a password b"
	for name, c := range map[string]struct {
		url string
		o   httpstore.Options
	}{
		"URL":    {strings.Replace(url, "://", "://me:secret%3Ax@", 1), httpstore.Options{}},
		"bearer": {url, httpstore.Options{Authorization: httpstore.Bearer("token")}},
		"netrc":  {url, httpstore.Options{Authorization: httpstore.Netrc(netrc, "127.0.0.1")}},
	} {
		t.Run(name, func(t *testing.T) {
			c.o.InsecureIgnoreSignatures = true
			s := newStore(t, c.url, &c.o)
			require.NotContains(t, s.String(), "secret")
			other.Store("nobody came")
			got, err := readNAR(t.Context(), s, infoOf(t, s, e))
			require.NoError(t, err)
			require.Equal(t, e.NAR, got)
			require.Equal(t, "", other.Load(), "no credentials for another host")
		})
	}
	s := newStore(t, url, &httpstore.Options{Authorization: httpstore.Netrc(netrc, "example.org")})
	_, err := s.Info(t.Context(), e.Info.StorePath.HashPart())
	require.ErrorContains(t, err, "status 401")
	require.NotErrorIs(t, err, store.ErrNotFound)
	require.Nil(t, httpstore.Netrc("machine x login y", "z"))
}

func TestURLsOfCaches(t *testing.T) {
	for _, url := range []string{"", "cache.example.org", "ftp://x", "http://", "http://x/?a=b", "http://x/#f", "http://u:secret@x/%zz", "ssh://u:secret@x"} {
		_, err := httpstore.New(url, nil)
		require.Error(t, err, url)
		require.NotContains(t, err.Error(), "secret")
	}
}
