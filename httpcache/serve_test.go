package httpcache_test

import (
	"crypto/tls"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

func TestFilesOutOfAPath(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, nil)
	base := "/serve/" + string(w.tool.StorePath.HashPart())
	const plain = "text/plain; charset=utf-8"
	for _, tt := range []struct{ name, file, mime, want string }{
		{"script", "/bin/tool", plain, "#!/bin/sh\necho hello\n"},
		{"text", "/share/README", plain, "plain text, with ümlauts"},
		{"markup", "/share/page.html", plain, "<!DOCTYPE html><script>alert(1)</script>"},
		{"picture", "/share/dot.png", "image/png", "\x89PNG\r\n\x1a\n rest"},
		{"binary", "/share/binary", "application/octet-stream", "\x00\x01\x02\x03"},
		{"empty", "/share/empty", plain, ""},
		{"symlink", "/share/link", plain, "plain text, with ümlauts"},
		{"through a symlink", "/share/up/tool", plain, "#!/bin/sh\necho hello\n"},
		{"hostile name", "/share/" + url.PathEscape("<b>&\"'"), plain, "hostile name"},
		{"name for URLs", "/share/" + url.PathEscape("a%2Fb?#"), plain, "name for URLs"},
		{"two slashes", "/share//README", plain, "plain text, with ümlauts"},
	} {
		r := get(h, base+tt.file)
		require.Equal(t, http.StatusOK, r.StatusCode, tt.name)
		require.Equal(t, tt.want, body(t, r), tt.name)
		require.Equal(t, tt.mime, r.Header.Get("Content-Type"), tt.name)
		require.Equal(t, "nosniff", r.Header.Get("X-Content-Type-Options"), tt.name)
		require.True(t, strings.HasPrefix(r.Header.Get("Content-Security-Policy"), "sandbox; default-src 'none'"), tt.name)
	}
}

func TestTextWhoseFirstBytesEndInsideACharacter(t *testing.T) {
	w := newWorld()
	i := w.Add("long", storetest.Files{"a": strings.Repeat("x", 511) + "ü", "b": strings.Repeat("x", 511) + "\xfc"})
	h := newHandler(t, w, nil)
	base := "/serve/" + string(i.StorePath.HashPart())
	require.Equal(t, "text/plain; charset=utf-8", get(h, base+"/a").Header.Get("Content-Type"))
	require.Equal(t, "application/octet-stream", get(h, base+"/b").Header.Get("Content-Type"))
}

func TestAPathThatIsAFile(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, nil)
	base := "/serve/" + string(w.other.StorePath.HashPart())
	require.Equal(t, "other", body(t, get(h, base)))
	require.Equal(t, http.StatusNotFound, get(h, base+"/x").StatusCode)
}

func TestSymlinksLeadNowhereOutsideTheirPath(t *testing.T) {
	w := newWorld()
	i := w.Add("links", storetest.Files{
		"file":       "found",
		"absolute":   "-> /etc/passwd",
		"elsewhere":  "-> " + string(w.other.StorePath),
		"up":         "-> ..",
		"up-down":    "-> ../" + w.other.StorePath.Base(),
		"sub/up":     "-> ../../x",
		"sub/in":     "-> ../file",
		"sub/dotted": "-> ./.././file",
		"dir":        "-> sub",
		"through":    "-> dir/in",
		"loop":       "-> loop",
		"ping":       "-> pong",
		"pong":       "-> ping",
		"dangling":   "-> nope",
		"trick":      "-> file/../file",
	})
	own := w.Add("own", storetest.Files{"": ""}) // for its name, which its new content holds
	w.AddInfo(&narinfo.Info{StorePath: own.StorePath}, storetest.Archive(storetest.Files{
		"file":   "found",
		"own":    "-> " + string(own.StorePath) + "/file",
		"prefix": "-> " + string(own.StorePath) + "x/file",
	}))
	h := newHandler(t, w, nil)
	for name, status := range map[string]int{
		"absolute": 404, "elsewhere": 404, "up": 404, "up-down": 404, "sub/up": 404, "loop": 404, "ping": 404,
		"dangling": 404, "trick": 404, "sub/in": 200, "sub/dotted": 200, "dir/in": 200, "through": 200,
	} {
		r := get(h, "/serve/"+string(i.StorePath.HashPart())+"/"+name)
		require.Equal(t, status, r.StatusCode, name)
		if status == 200 {
			require.Equal(t, "found", body(t, r), name)
		}
	}
	require.Equal(t, "found", body(t, get(h, "/serve/"+string(own.StorePath.HashPart())+"/own")), "its own absolute name")
	require.Equal(t, 404, get(h, "/serve/"+string(own.StorePath.HashPart())+"/prefix").StatusCode)
}

func TestDirectoriesEndInASlash(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, nil)
	hash := string(w.tool.StorePath.HashPart())
	for from, to := range map[string]string{
		"/serve/" + hash:               "/serve/" + hash + "/",
		"/serve/" + hash + "/share":    "/serve/" + hash + "/share/",
		"/serve/" + hash + "/share/up": "/serve/" + hash + "/share/up/",
	} {
		r := get(h, from)
		require.Equal(t, http.StatusMovedPermanently, r.StatusCode, from)
		at, err := url.Parse("https://cache.example.org" + from)
		require.NoError(t, err)
		moved, err := at.Parse(r.Header.Get("Location"))
		require.NoError(t, err)
		require.Equal(t, "https://cache.example.org"+to, moved.String(), "a Location is relative")
		require.Equal(t, http.StatusOK, get(h, moved.Path).StatusCode, to)
	}
}

var href = regexp.MustCompile(`href="([^"]*)"`)

func TestEveryLinkOfADirectoryPageLeadsToItsFile(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, nil)
	at, err := url.Parse("http://cache/serve/" + string(w.tool.StorePath.HashPart()) + "/share/")
	require.NoError(t, err)
	r := get(h, at.Path)
	require.Equal(t, "text/html; charset=utf-8", r.Header.Get("Content-Type"))
	require.True(t, strings.HasPrefix(r.Header.Get("Content-Security-Policy"), "sandbox;"))
	page := body(t, r)
	found := map[string]int{}
	for _, m := range href.FindAllStringSubmatch(page, -1) {
		link, err := at.Parse(html.UnescapeString(m[1]))
		require.NoError(t, err)
		found[strings.TrimPrefix(link.Path, at.Path)] = get(h, link.String()).StatusCode
	}
	for _, name := range []string{"README", "page.html", "<b>&\"'", "a%2Fb?#", "link"} {
		require.Equal(t, http.StatusOK, found[name], name)
	}
	require.Equal(t, http.StatusNotFound, found["etc"], "a link out of the path")
	require.NotContains(t, page, "<b>&")
	require.Contains(t, page, "&lt;b&gt;&amp;&#34;&#39;")
}

func TestLandingPage(t *testing.T) {
	w := newWorld()
	k := newKey(t, "cache.example.org-1")
	h := newHandler(t, w, &httpcache.Options{Keys: []*signing.SecretKey{k}, PublicURL: "https://cache.example.org"})
	r := get(h, "/")
	page := html.UnescapeString(body(t, r))
	require.Contains(t, page, "extra-substituters = https://cache.example.org\n")
	require.Contains(t, page, "extra-trusted-public-keys = "+k.Public().String()+"\n")
	require.Contains(t, page, `substituters = [ "https://cache.example.org" ];`)
	require.Contains(t, page, `trusted-public-keys = [ "`+k.Public().String()+`" ];`)
	require.True(t, strings.HasPrefix(r.Header.Get("Content-Security-Policy"), "default-src 'none'; "))
	require.NotContains(t, body(t, get(newHandler(t, w, nil), "/")), "trusted-public-keys")
}

func TestLandingPageShowsNoHostThatIsNone(t *testing.T) {
	h := newHandler(t, newWorld(), nil)
	for host, shown := range map[string]bool{
		"cache:5000": true, "cache.example.org": true, "192.0.2.1:80": true, "[2001:db8::1]:5000": true,
		"": false, "<script>": false, `"; evil = "`: false, "a b": false, "a/b": false, "${x}": false, "user@host": false,
		"host:port": false, "-x": false,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		page := html.UnescapeString(rec.Body.String())
		require.Equal(t, shown, strings.Contains(page, "extra-substituters = http://"+host+"\n"), host)
		require.Equal(t, shown, strings.Contains(page, "substituters"), host)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.TLS = &tls.ConnectionState{}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	require.Contains(t, rec.Body.String(), "extra-substituters = https://example.com\n")
}
