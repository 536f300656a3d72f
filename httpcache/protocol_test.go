package httpcache_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

func TestCacheInfo(t *testing.T) {
	w := newWorld()
	for _, tt := range []struct {
		name string
		opts *httpcache.Options
		want string
	}{
		{"by default", nil, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"},
		{"as set", &httpcache.Options{Priority: 50, NoMassQuery: true}, "StoreDir: /nix/store\nPriority: 50\n"},
	} {
		r := get(newHandler(t, w, tt.opts), "/nix-cache-info")
		require.Equal(t, tt.want, body(t, r), tt.name)
		require.Equal(t, "text/x-nix-cache-info", r.Header.Get("Content-Type"), tt.name)
	}
}

func TestNarinfoNamesOurURLAndHasEverySignature(t *testing.T) {
	w := newWorld()
	own, one, two := newKey(t, "own-1"), newKey(t, "one-1"), newKey(t, "two-1")
	signed := w.tool.Clone()
	signed.Sign(own)
	w.AddInfo(signed, archiveOf(t, w, w.tool))
	h := newHandler(t, w, &httpcache.Options{Keys: []*signing.SecretKey{one, two}})

	r := get(h, "/"+string(w.tool.StorePath.HashPart())+".narinfo")
	require.Equal(t, "text/x-nix-narinfo", r.Header.Get("Content-Type"))
	info, err := narinfo.Parse([]byte(body(t, r)))
	require.NoError(t, err)
	require.Equal(t, w.tool.StorePath, info.StorePath)
	require.Equal(t, "nar/"+string(w.tool.StorePath.HashPart())+"-"+w.tool.NarHash.Base32()+".nar", info.URL)
	require.Equal(t, "none", info.Compression)
	require.Equal(t, w.tool.NarHash, info.FileHash)
	require.Equal(t, w.tool.NarSize, info.FileSize)
	require.Equal(t, []narinfo.StorePath{w.lib.StorePath}, info.References)
	for _, k := range []*signing.SecretKey{own, one, two} {
		_, ok := info.VerifiedBy(signing.Keyring{k.Public()})
		require.True(t, ok, "signature of %s", k.Name())
	}
}

func TestSignaturesFollowThePath(t *testing.T) {
	w := newWorld()
	k := newKey(t, "k-1")
	h := newHandler(t, w, &httpcache.Options{Keys: []*signing.SecretKey{k}})
	check := func(name string) string {
		text := body(t, get(h, w.urls()["narinfo"]))
		info, err := narinfo.Parse([]byte(text))
		require.NoError(t, err, name)
		_, ok := info.VerifiedBy(signing.Keyring{k.Public()})
		require.True(t, ok, name)
		require.True(t, slices.IsSorted(info.Signatures), name)
		return text
	}
	first := check("first")
	require.Equal(t, first, check("the same again"))
	stale := w.tool.Clone()
	for _, name := range []string{"a-1", "k-1", "z-1"} {
		stale.Signatures = append(stale.Signatures, newKey(t, name).Sign(nil))
	}
	w.AddInfo(stale, archiveOf(t, w, w.tool))
	require.Equal(t, 3, strings.Count(check("with one of the key's name"), "Sig: "))
	w.AddInfo(&narinfo.Info{StorePath: w.tool.StorePath}, storetest.Archive(storetest.Files{"": "rebuilt"}))
	require.NotEqual(t, first, check("rebuilt"))
}

func TestSignaturesThatAreNoneAreDropped(t *testing.T) {
	w := newWorld()
	good := newKey(t, "good-1").Sign([]byte("something"))
	odd := w.tool.Clone()
	odd.Signatures = []signing.Signature{"a:", "a:x:AAAA", good}
	w.AddInfo(odd, archiveOf(t, w, w.tool))
	info, err := narinfo.Parse([]byte(body(t, get(newHandler(t, w, nil), w.urls()["narinfo"]))))
	require.NoError(t, err)
	require.Equal(t, []signing.Signature{good}, info.Signatures)
}

func TestNarinfoAsJSON(t *testing.T) {
	w := newWorld()
	r := get(newHandler(t, w, nil), w.urls()["narinfo as JSON"])
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	require.JSONEq(t, fmt.Sprintf(`{"path":%q,"url":"nar/%s-%s.nar","compression":"none","downloadHash":%q,
		"downloadSize":%d,"narHash":%q,"narSize":%d,"references":[%q],"signatures":[]}`,
		w.tool.StorePath, w.tool.StorePath.HashPart(), w.tool.NarHash.Base32(), w.tool.NarHash.SRI(), w.tool.NarSize,
		w.tool.NarHash.SRI(), w.tool.NarSize, w.lib.StorePath), body(t, r))
}

func TestEveryShapeOfNARURL(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, nil)
	want := archiveOf(t, w, w.tool)
	for name, cache := range map[string]string{
		"NAR":             "public, max-age=31536000, immutable",
		"harmonia's NAR":  "public, max-age=31536000, immutable",
		"nix-serve's NAR": "public, max-age=3600",
	} {
		r := get(h, w.urls()[name])
		require.Equal(t, http.StatusOK, r.StatusCode, name)
		require.Equal(t, string(want), body(t, r), name)
		require.Equal(t, "application/x-nix-nar", r.Header.Get("Content-Type"), name)
		require.Equal(t, fmt.Sprint(len(want)), r.Header.Get("Content-Length"), name)
		require.Equal(t, "bytes", r.Header.Get("Accept-Ranges"), name)
		require.Equal(t, cache, r.Header.Get("Cache-Control"), name)
		require.Equal(t, `"`+w.tool.NarHash.Base32()+`"`, r.Header.Get("ETag"), name)
		require.Empty(t, r.Header.Get("Content-Encoding"), name)
	}
}

func TestNAROfARebuiltPathIsGoneUnderItsOldURL(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, nil)
	rebuilt := w.tool.Clone()
	w.AddInfo(&narinfo.Info{StorePath: rebuilt.StorePath}, storetest.Archive(storetest.Files{"": "new"}))
	require.Equal(t, http.StatusNotFound, get(h, w.urls()["NAR"]).StatusCode)
	require.Equal(t, http.StatusNotFound, get(h, w.urls()["harmonia's NAR"]).StatusCode)
	require.Equal(t, string(storetest.Archive(storetest.Files{"": "new"})), body(t, get(h, w.urls()["nix-serve's NAR"])))
}

func TestListing(t *testing.T) {
	w := newWorld()
	info := w.Add("small", storetest.Files{"a": "content", "b": "-> a"})
	r := get(newHandler(t, w, nil), "/"+string(info.StorePath.HashPart())+".ls")
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	require.JSONEq(t, `{"version":1,"root":{"type":"directory","entries":{
		"a":{"type":"regular","size":7,"narOffset":232},"b":{"type":"symlink","target":"a"}}}}`, body(t, r))
}

func TestListingOfNamesThatAreNoUTF8IsNotFound(t *testing.T) {
	w := newWorld()
	info := w.Add("latin", storetest.Files{"caf\xe9": "x"})
	h := newHandler(t, w, nil)
	require.Equal(t, http.StatusNotFound, get(h, "/"+string(info.StorePath.HashPart())+".ls").StatusCode)
	require.Equal(t, http.StatusOK, get(h, "/"+string(info.StorePath.HashPart())+".narinfo").StatusCode)
}

func TestLog(t *testing.T) {
	r := get(newHandler(t, newWorld(), nil), "/log/"+drvBase)
	require.Equal(t, "building\nbuilt\n", body(t, r))
	require.Equal(t, "text/plain; charset=utf-8", r.Header.Get("Content-Type"))
	require.Empty(t, r.Header.Get("Accept-Ranges"), "no range of what has no known length")
}

func TestRealisations(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, nil)
	want := fmt.Sprintf(`{"id":%q,"outPath":%q}`, realisationID, w.tool.StorePath.Base())
	require.JSONEq(t, want, body(t, get(h, w.urls()["realisation"])))
	require.JSONEq(t, want, body(t, get(h, w.urls()["escaped id"])))
}

// No released client asks for build traces: the shape of URL and document is that of Nix's development branch of
// August 2026 (binary-cache-store.cc, realisation.cc).
func TestBuildTrace(t *testing.T) {
	w := newWorld()
	r := get(newHandler(t, w, nil), "/build-trace-v2/"+drvBase+"/out.doi")
	require.JSONEq(t, fmt.Sprintf(`{"outPath":%q,"signatures":[]}`, w.tool.StorePath.Base()), body(t, r))
}

func TestDebugInfoLeadsToTheArchive(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, nil)
	for _, name := range []string{"debug info", "debug info file"} {
		var link struct{ Archive, Member string }
		require.NoError(t, json.Unmarshal([]byte(body(t, get(h, w.urls()[name]))), &link), name)
		require.Equal(t, debugMember, link.Member, name)
		archive, ok := strings.CutPrefix(link.Archive, "..")
		require.True(t, ok, link.Archive)
		require.Equal(t, string(archiveOf(t, w, w.tool)), body(t, get(h, archive)), name)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld()
	require.Equal(t, "ok\n", body(t, get(newHandler(t, w, nil), "/healthz")))
	broken := &storetest.Faults{Store: w, InfoErr: func(narinfo.HashPart) error { return io.ErrClosedPipe }}
	r := get(newHandler(t, broken, nil), "/healthz")
	require.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	require.Equal(t, "unavailable\n", body(t, r))
}

func TestHeadIsGetWithoutABody(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, &httpcache.Options{Keys: []*signing.SecretKey{newKey(t, "k-1")}})
	for name, url := range w.urls() {
		head, full := request(h, http.MethodHead, url), get(h, url)
		require.Equal(t, full.StatusCode, head.StatusCode, name)
		require.Equal(t, full.Header, head.Header, name)
		require.Empty(t, body(t, head), name)
		require.NotEmpty(t, body(t, full), name)
	}
}

func TestHeadOfANARDoesNotOpenIt(t *testing.T) {
	w := newWorld()
	s := &storetest.Faults{Store: w, Read: storetest.FailAt(0, io.ErrClosedPipe)}
	r := request(newHandler(t, s, nil), http.MethodHead, w.urls()["NAR"])
	require.Equal(t, http.StatusOK, r.StatusCode)
}

func TestOtherMethodsAreRefused(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, nil)
	for name, url := range w.urls() {
		for _, method := range []string{"PUT", "POST", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"} {
			r := request(h, method, url)
			require.Equal(t, http.StatusMethodNotAllowed, r.StatusCode, "%s %s", method, name)
			require.Equal(t, "GET, HEAD", r.Header.Get("Allow"), "%s %s", method, name)
		}
	}
}

func TestBadInput(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, nil)
	hash, narHash := string(w.tool.StorePath.HashPart()), w.tool.NarHash.Base32()
	for _, tt := range []struct {
		name, url string
		status    int
		sentence  string
	}{
		{"hash too long", "/" + hash + "0.narinfo", 400, "malformed hash part"},
		{"hash too short", "/" + hash[1:] + ".narinfo", 400, "malformed hash part"},
		{"hash with e", "/e" + hash[1:] + ".narinfo", 400, "malformed hash part"},
		{"hash with o", "/o" + hash[1:] + ".narinfo", 400, "malformed hash part"},
		{"hash with t", "/t" + hash[1:] + ".narinfo", 400, "malformed hash part"},
		{"hash with u", "/u" + hash[1:] + ".narinfo", 400, "malformed hash part"},
		{"hash in capitals", "/" + strings.ToUpper(hash) + ".narinfo", 400, "malformed hash part"},
		{"hash with a wildcard", "/" + hash[1:] + "%25.narinfo", 400, "malformed hash part"},
		{"no hash", "/.narinfo", 400, "malformed hash part"},
		{"absent hash", "/" + absentHash + ".narinfo", 404, "not found"},
		{"listing, malformed", "/" + hash + "0.ls", 400, "malformed hash part"},
		{"listing, absent", "/" + absentHash + ".ls", 404, "not found"},
		{"traversal", "/../etc/passwd", 400, "malformed path"},
		{"traversal, escaped", "/%2e%2e/%2e%2e/etc/passwd", 400, "malformed path"},
		{"traversal, slashes escaped", "/..%2f..%2fetc%2fpasswd", 400, "malformed path"},
		{"traversal in a NAR", "/nar/../" + hash + ".narinfo", 400, "malformed path"},
		{"traversal in a log", "/log/../../etc/passwd", 400, "malformed path"},
		{"traversal in a file", "/serve/" + hash + "/../../etc/passwd", 400, "malformed path"},
		{"dot", "/serve/" + hash + "/./bin", 400, "malformed path"},
		{"NUL", "/" + hash + "%00.narinfo", 400, "malformed path"},
		{"line feed", "/" + hash + "%0a.narinfo", 400, "malformed path"},
		{"double slash", "//" + hash + ".narinfo", 404, "not found"},
		{"NAR of another hash", "/nar/" + hash + "-" + absentNarHash + ".nar", 404, "not found"},
		{"NAR of an absent path", "/nar/" + absentHash + "-" + narHash + ".nar", 404, "not found"},
		{"NAR, compressed", "/nar/" + hash + "-" + narHash + ".nar.xz", 404, "not found"},
		{"NAR, absent suffix", "/nar/" + hash + "-" + narHash + ".nar.", 404, "not found"},
		{"NAR hash with e", "/nar/" + hash + "-e" + narHash[1:] + ".nar", 400, "malformed NAR name"},
		{"NAR path hash with e", "/nar/e" + hash[1:] + "-" + narHash + ".nar", 400, "malformed hash part"},
		{"NAR, no dash", "/nar/" + hash + narHash + ".nar", 400, "malformed NAR name"},
		{"NAR, harmonia's, hash malformed", "/nar/" + narHash + ".nar?hash=..", 400, "malformed hash part"},
		{"NAR, harmonia's, no hash", "/nar/" + narHash + ".nar", 404, "not found"},
		{"NAR, harmonia's, absent", "/nar/" + narHash + ".nar?hash=" + absentHash, 404, "not found"},
		{"NAR, nix-serve's, absent", "/nar/" + absentHash + ".nar", 404, "not found"},
		{"no NAR", "/nar/", 404, "not found"},
		{"log, malformed", "/log/foo.drv", 400, "malformed derivation name"},
		{"log of no derivation", "/log/" + absentHash + "-x", 404, "not found"},
		{"log, absent", "/log/" + absentHash + "-x.drv", 404, "not found"},
		{"realisation, no suffix", "/realisations/" + realisationID, 400, "malformed realisation id"},
		{"realisation, no hash", "/realisations/sha256:00!out.doi", 400, "malformed realisation id"},
		{"realisation, base 32", "/realisations/sha256:" + narHash + "!out.doi", 400, "malformed realisation id"},
		{"realisation, output", "/realisations/" + realisationID + "%2f.doi", 400, "malformed realisation id"},
		{"realisation, absent", "/realisations/" + strings.Replace(realisationID, "!out", "!dev", 1) + ".doi", 404,
			"not found"},
		{"build trace, malformed", "/build-trace-v2/x/out.doi", 400, "malformed derivation name"},
		{"build trace, no output", "/build-trace-v2/" + drvBase, 400, "malformed realisation id"},
		{"build trace, absent", "/build-trace-v2/" + drvBase + "/dev.doi", 404, "not found"},
		{"build id, malformed", "/debuginfo/..x", 400, "malformed build id"},
		{"build id, odd", "/debuginfo/" + buildID[1:], 400, "malformed build id"},
		{"build id, capitals", "/debuginfo/" + strings.ToUpper(buildID), 400, "malformed build id"},
		{"build id, absent", "/debuginfo/" + strings.Repeat("0", 40), 404, "not found"},
		{"file, malformed", "/serve/x/y", 400, "malformed hash part"},
		{"file, absent", "/serve/" + hash + "/nope", 404, "not found"},
		{"file below a file", "/serve/" + hash + "/bin/tool/x", 404, "not found"},
		{"file as a directory", "/serve/" + hash + "/bin/tool/", 404, "not found"},
	} {
		r := get(h, tt.url)
		require.Equal(t, tt.status, r.StatusCode, tt.name)
		require.Equal(t, tt.sentence+"\n", body(t, r), tt.name)
		require.Equal(t, "no-store", r.Header.Get("Cache-Control"), tt.name)
	}
}

// TestProtocolPageHasEachSentence keeps the table of statuses true.
func TestProtocolPageHasEachSentence(t *testing.T) {
	page, err := os.ReadFile("../docs/protocol.md")
	require.NoError(t, err)
	code, err := os.ReadFile("errors.go")
	require.NoError(t, err)
	sentences := regexp.MustCompile("inputError = [\"`](.*)[\"`]\n").FindAllStringSubmatch(string(code), -1)
	require.Greater(t, len(sentences), 5)
	for _, sentence := range sentences {
		require.Contains(t, string(page), "`"+sentence[1]+"`")
	}
	for _, text := range []string{"| 405 |", "| 503 |", "| 507 |", "`method not allowed`", "`a credential is needed`", "`unavailable`"} {
		require.Contains(t, string(page), text)
	}
}
