package main_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// uploadServer is a server that takes uploads into a bucket of its own.
type uploadServer struct {
	*server
	Bucket string // the directory, also of a bucket in S3
	tokens string // the file

	store, catalog string // as the flags; "": in Bucket, and beside it
}

func startUploadServer(t *testing.T, args ...string) *uploadServer {
	t.Helper()
	dir := t.TempDir()
	u := &uploadServer{Bucket: filepath.Join(dir, "bucket"), tokens: filepath.Join(dir, "tokens.json")}
	u.server = startServer(t, append([]string{"--upload", "--store", "file://" + u.Bucket, "--token-file", u.tokens}, args...)...)
	return u
}

func (u *uploadServer) token(t *testing.T, scope string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "narserved", append([]string{"token", "create", "--name", scope + "er",
		"--token-file", u.tokens, "--scope", scope}, args...)...)
	out, err := cmd.Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// netrc are the options with which a Nix sends a token.
func (u *uploadServer) netrc(t *testing.T, nix realnix.Nix, token string) []string {
	t.Helper()
	at, err := url.Parse(u.URL)
	require.NoError(t, err)
	dir := nix.TempDir(t)
	line := fmt.Sprintf("machine %s login nix password %s\n", at.Hostname(), token)
	require.NoError(t, os.WriteFile(filepath.Join(nix.Host(dir), "netrc"), []byte(line), 0o600))
	return []string{"--option", "netrc-file", dir + "/netrc"}
}

// send makes a request with a token, "" being none.
func (u *uploadServer) send(t *testing.T, method, path, token string, body io.Reader, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, u.URL, body)
	require.NoError(t, err)
	req.URL.Opaque = "//" + req.URL.Host + path // as it is
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, text, err}
}

// files lists what lies in the bucket.
func (u *uploadServer) files(t *testing.T) []string {
	t.Helper()
	var all []string
	require.NoError(t, filepath.WalkDir(u.Bucket, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			all = append(all, strings.TrimPrefix(name, u.Bucket+"/"))
		}
		return err
	}))
	return all
}

func TestEveryReleasePushesTheClosureAndReadsItBack(t *testing.T) {
	top, _ := someClosure(t)
	source := startServer(t, "--store", "local", "--compression", "none")
	part := strings.Fields(realnix.Get(t, "2.8").Run(t, "nix-store", "--query", "--references", top))[0]
	for _, nix := range realnix.All(t) {
		for compression, root := range map[string]string{"zstd": top, "none": part, "xz": part} {
			t.Run(nix.Release+"/"+compression, func(t *testing.T) {
				u := startUploadServer(t)
				from := nix.TempDir(t)
				nix.Run(t, "nix", append(source.trusting(), "copy", "--from", source.URL, "--to", from, root)...)
				push := append(u.netrc(t, nix, u.token(t, "push")), "copy", "--from", from, "--no-check-sigs",
					"--to", u.URL+"?write-nar-listing=true&ls-compression=gzip&narinfo-compression=&compression="+compression, root)
				nix.Run(t, "nix", push...)

				to := nix.TempDir(t)
				nix.Run(t, "nix", append(source.trusting(), "copy", "--from", u.URL, "--to", to, root)...)
				nix.Run(t, "nix", "store", "verify", "--store", to, "--recursive", "--no-trust", root)
				require.Equal(t, nix.Run(t, "nix", "path-info", "--store", from, "--recursive", root),
					nix.Run(t, "nix", "path-info", "--store", to, "--recursive", root))

				copied := nix.TempDir(t) // by Nix alone, from the directory
				require.NoError(t, os.CopyFS(nix.Host(copied)+"/bucket", os.DirFS(u.Bucket)))
				nix.Run(t, "nix", "copy", "--from", "file://"+copied+"/bucket", "--no-check-sigs", "--to", nix.TempDir(t), root)

				before := u.files(t)
				nix.Run(t, "nix", push...)
				require.Equal(t, before, u.files(t), "a second push finds all of it there")
			})
		}
	}
}

// made is a path with its archive, made up.
type made struct {
	info    *narinfo.Info
	archive []byte // zstd
}

// makePath makes a path of one file.
func makePath(t require.TestingT, name string, content []byte, references ...narinfo.StorePath) made {
	var nar bytes.Buffer
	field := func(s string) {
		var size [8]byte
		for i := range 8 {
			size[i] = byte(len(s) >> (8 * i))
		}
		nar.Write(size[:])
		nar.WriteString(s)
		nar.Write(make([]byte, (8-len(s)%8)%8))
	}
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents", string(content), ")"} {
		field(s)
	}
	return archived(t, name, nar.Bytes(), references...)
}

func archived(t require.TestingT, name string, nar []byte, references ...narinfo.StorePath) made {
	hash := func(b []byte) narinfo.Hash {
		sum := sha256.Sum256(b)
		h, err := narinfo.NewHash(narinfo.SHA256, sum[:])
		require.NoError(t, err)
		return h
	}
	e, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	m := made{archive: e.EncodeAll(nar, nil)}
	path, err := narinfo.NewStorePath("/nix/store", hash([]byte(name)).Base32()[:32]+"-"+name)
	require.NoError(t, err)
	m.info = &narinfo.Info{StorePath: path, Compression: "zstd", FileHash: hash(m.archive), FileSize: int64(len(m.archive)),
		NarHash: hash(nar), NarSize: int64(len(nar)), References: references}
	m.info.URL = "nar/" + m.info.FileHash.Base32() + ".nar.zst"
	return m
}

func (m made) narinfo(t *testing.T) []byte {
	t.Helper()
	text, err := m.info.MarshalText()
	require.NoError(t, err)
	return text
}

func (m made) key() string { return "/" + string(m.info.StorePath.HashPart()) + ".narinfo" }

func TestUploadsNeedATokenWithThatRight(t *testing.T) {
	u := startUploadServer(t)
	push, read := u.token(t, "push"), u.token(t, "read")
	other := u.token(t, "push", "--cache", "other")
	expired := u.token(t, "push", "--expires", "1ms")
	p := makePath(t, "hello", []byte("hello"))
	for name, row := range map[string]struct {
		token  string
		status int
	}{
		"none": {"", 401}, "read": {read, 403}, "of another cache": {other, 403}, "expired": {expired, 401},
		"forged": {push[:len(push)-2] + "AA", 401}, "nonsense": {"nonsense", 401},
	} {
		for _, path := range []string{"/" + p.info.URL, p.key(), "/anything"} {
			a := u.send(t, http.MethodPut, path, row.token, bytes.NewReader(p.archive))
			require.Equal(t, row.status, a.status, "%s: %s", name, path)
			require.NotContains(t, string(a.body), "nixtrap_")
			if row.status == 401 {
				require.NotEmpty(t, a.header.Get("WWW-Authenticate"))
			}
		}
	}
	require.Equal(t, []string{"nix-cache-info"}, u.files(t))
	require.Equal(t, 201, u.send(t, http.MethodPut, "/"+p.info.URL, push, bytes.NewReader(p.archive)).status)
	require.Equal(t, 201, u.send(t, http.MethodPut, p.key(), push, bytes.NewReader(p.narinfo(t))).status)
	require.Equal(t, 200, get(t, u.URL+p.key()).status)
}

func TestUploadsThatAreNotWhatTheySayLeaveNothing(t *testing.T) {
	u := startUploadServer(t, "--max-nar-size", "8MiB", "--max-archive-size", "4MiB")
	token := u.token(t, "push")
	p, other := makePath(t, "hello", []byte("hello")), makePath(t, "other", []byte("other"))
	unknown := makePath(t, "unknown", []byte("unknown"))
	url := "/" + p.info.URL
	bomb := makePath(t, "bomb", make([]byte, 9<<20))
	noise := make([]byte, 5<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	fat := makePath(t, "fat", noise)
	notNAR := archived(t, "text", []byte("this is no NAR at all"))
	trailing := archived(t, "trailing", append([]byte(nil), decode(t, p.archive)...))
	trailing.archive = append(trailing.archive, p.archive...)
	sum := sha256.Sum256(trailing.archive)
	trailing.info.FileHash, _ = narinfo.NewHash(narinfo.SHA256, sum[:])

	put := func(path string, body []byte) int {
		return u.send(t, http.MethodPut, path, token, bytes.NewReader(body)).status
	}
	require.Equal(t, 400, put(url, other.archive), "another archive under its name")
	require.Equal(t, 400, put(url, p.archive[:len(p.archive)-1]), "one that ends early")
	require.Equal(t, 400, put(url, append(p.archive, 0)), "one that goes on")
	require.Equal(t, 400, put(strings.TrimSuffix(url, ".zst"), p.archive), "one that is not compressed as its name says")
	require.Equal(t, 400, put("/"+notNAR.info.URL, notNAR.archive), "what is no NAR")
	require.Equal(t, 400, put("/nar/"+trailing.info.FileHash.Base32()+".nar.zst", trailing.archive), "two NARs in one")
	require.Equal(t, 413, put("/"+bomb.info.URL, bomb.archive), "one that decodes to too much")
	require.Equal(t, 413, put("/"+fat.info.URL, fat.archive), "a long one")
	require.Equal(t, 409, put(p.key(), p.narinfo(t)), "a narinfo before its archive")
	for _, path := range []string{"/../x", "/nar/../../etc/passwd", "/nar/%2e%2e/x", "/nix-cache-info", "/", "/nar/x", "/x.narinfo",
		"/nar/" + strings.Repeat("0", 52) + ".nar.br", "//etc/passwd", "/log/../x", "/nar/.new-1"} {
		require.Contains(t, []int{400, 404}, put(path, p.archive), path)
	}
	require.Equal(t, []string{"nix-cache-info"}, u.files(t), "nothing of all that is left")

	require.Equal(t, 201, put(url, p.archive))
	for name, change := range map[string]func(*narinfo.Info){
		"NarHash":        func(i *narinfo.Info) { i.NarHash = other.info.NarHash },
		"NarSize":        func(i *narinfo.Info) { i.NarSize++ },
		"FileHash":       func(i *narinfo.Info) { i.FileHash = other.info.FileHash },
		"FileSize":       func(i *narinfo.Info) { i.FileSize++ },
		"Compression":    func(i *narinfo.Info) { i.Compression = "xz" },
		"StorePath":      func(i *narinfo.Info) { i.StorePath = other.info.StorePath },
		"URL":            func(i *narinfo.Info) { i.URL = other.info.URL },
		"a foreign URL":  func(i *narinfo.Info) { i.URL = "https://example.org/" + i.URL },
		"a climbing URL": func(i *narinfo.Info) { i.URL = "nar/../" + i.URL },
		"References":     func(i *narinfo.Info) { i.References = []narinfo.StorePath{unknown.info.StorePath} },
	} {
		wrong := made{info: p.info.Clone()}
		change(wrong.info)
		require.Contains(t, []int{400, 409}, put(p.key(), wrong.narinfo(t)), name)
		require.Equal(t, 404, get(t, u.URL+p.key()).status, name)
	}
	require.Equal(t, 400, put(p.key(), []byte("StorePath: nonsense\n")))
	require.Equal(t, 413, put(p.key(), bytes.Repeat([]byte("x"), narinfo.MaxSize+1)))
	require.Equal(t, 201, put(p.key(), p.narinfo(t)))
	require.Equal(t, decode(t, p.archive), decode(t, get(t, u.URL+url).body))
}

func decode(t *testing.T, archive []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil)
	require.NoError(t, err)
	defer d.Close()
	b, err := d.DecodeAll(archive, nil)
	require.NoError(t, err)
	return b
}

func TestAnInterruptedUploadLeavesNothing(t *testing.T) {
	u := startUploadServer(t)
	token := u.token(t, "push")
	p := makePath(t, "long", bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
	for _, sent := range []int{0, 1, len(p.archive) / 2, len(p.archive) - 1} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(u.URL, "http://"))
		require.NoError(t, err)
		fmt.Fprintf(conn, "PUT /%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s",
			p.info.URL, token, len(p.archive), p.archive[:sent])
		require.NoError(t, conn.Close())
	}
	require.Eventually(t, func() bool { return len(u.files(t)) == 1 }, 10*time.Second, 10*time.Millisecond,
		"nothing but nix-cache-info stays")
	require.Equal(t, 404, u.send(t, http.MethodHead, "/"+p.info.URL, token, nil).status)
	require.Equal(t, 201, u.send(t, http.MethodPut, "/"+p.info.URL, token, bytes.NewReader(p.archive)).status)
	require.Equal(t, 200, u.send(t, http.MethodHead, "/"+p.info.URL, token, nil).status)
}

func TestUploadsCanBeLimitedToATrustedKey(t *testing.T) {
	key := newKey(t, "builder-1")
	u := startUploadServer(t, "--upload-key", key.Public().String(), "--sign-uploads")
	token := u.token(t, "push")
	p := makePath(t, "hello", []byte("hello"))
	require.Equal(t, 201, u.send(t, http.MethodPut, "/"+p.info.URL, token, bytes.NewReader(p.archive)).status)
	require.Equal(t, 403, u.send(t, http.MethodPut, p.key(), token, bytes.NewReader(p.narinfo(t))).status)
	stranger := newKey(t, "builder-1")
	p.info.Sign(stranger)
	require.Equal(t, 403, u.send(t, http.MethodPut, p.key(), token, bytes.NewReader(p.narinfo(t))).status)
	p.info.Signatures = nil
	p.info.Sign(key)
	require.Equal(t, 201, u.send(t, http.MethodPut, p.key(), token, bytes.NewReader(p.narinfo(t))).status)
	stored, err := os.ReadFile(u.Bucket + p.key())
	require.NoError(t, err)
	require.Contains(t, string(stored), "Sig: builder-1:")
	require.Contains(t, string(stored), "Sig: test.example.org-1:", "ours, in the file")
}

// Who pushes to a server that takes nothing is told so, and how that is changed; the status is one that Nix tries once.
func TestAPushToAServerWithoutUploadsIsToldHowToSwitchThemOn(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: /nix/store\n"), 0o644))
	s := startServer(t, "--store", "file://"+dir)
	for _, path := range []string{"/nar/x.nar", "/x.narinfo", "/team/x.narinfo"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL+path, strings.NewReader("x"))
		require.NoError(t, err)
		resp, err := httpClient.Do(req)
		require.NoError(t, err)
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, 405, resp.StatusCode)
		require.Equal(t, "GET, HEAD", resp.Header.Get("Allow"))
		require.Equal(t, "this cache takes no uploads: serve it with --upload and --store file:///DIR or s3://BUCKET\n", string(text))
	}
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			from := nix.TempDir(t)
			path := strings.TrimSpace(nix.Run(t, "nix-instantiate", "--store", from, "--eval", "--read-write-mode", "-E",
				`builtins.toFile "a" "x"`))
			out, err := nix.Command(t, "nix", "copy", "--store", from, "--to", s.URL, strings.Trim(path, `"`)).CombinedOutput()
			require.Error(t, err)
			require.Contains(t, string(out), "405", nix.Release)
			require.Contains(t, string(out), "serve it with --upload", "%s shows what the server says", nix.Release)
		})
	}
}

// A content address for which the path would be another one is nothing to Nix, so nobody gets to publish one.
func TestAContentAddressFitsItsPathOrIsRefused(t *testing.T) {
	u := startUploadServer(t)
	token := u.token(t, "push")
	put := func(p made) answer {
		return u.send(t, http.MethodPut, p.key(), token, bytes.NewReader(p.narinfo(t)))
	}
	p, other := makePath(t, "hello", []byte("hello")), makePath(t, "hello", []byte("another"))
	p.info.CA = narinfo.ContentAddress("fixed:r:" + p.info.NarHash.String())
	unfit := made{info: p.info.Clone()}
	var err error
	p.info.StorePath, err = p.info.ContentPath()
	require.NoError(t, err)
	require.NotEqual(t, unfit.info.StorePath, p.info.StorePath)
	require.Equal(t, 201, u.send(t, http.MethodPut, "/"+p.info.URL, token, bytes.NewReader(p.archive)).status)
	for name, change := range map[string]func(*narinfo.Info){
		"of another hash":     func(i *narinfo.Info) { i.CA = narinfo.ContentAddress("fixed:r:" + other.info.NarHash.String()) },
		"of text":             func(i *narinfo.Info) { i.CA = narinfo.ContentAddress("text:" + i.NarHash.String()) },
		"of a file":           func(i *narinfo.Info) { i.CA = narinfo.ContentAddress("fixed:" + i.NarHash.String()) },
		"of Git":              func(i *narinfo.Info) { i.CA = narinfo.ContentAddress("fixed:git:" + i.NarHash.String()) },
		"of other references": func(i *narinfo.Info) { i.References = []narinfo.StorePath{i.StorePath} },
		"of text in SHA-1":    func(i *narinfo.Info) { i.CA = "text:sha1:s6s9l26smx1br7zhgkslbvvs85y8bgp5" },
	} {
		wrong := made{info: p.info.Clone()}
		change(wrong.info)
		a := put(wrong)
		require.Equal(t, 400, a.status, name)
		require.Contains(t, string(a.body), string(wrong.info.CA), name)
	}
	require.Equal(t, 400, put(unfit).status, "one for another path")
	lying := made{info: p.info.Clone()} // the address fits the path, and the archive is another
	lying.info.URL, lying.info.FileHash, lying.info.FileSize = other.info.URL, other.info.FileHash, other.info.FileSize
	lying.info.NarHash, lying.info.NarSize = other.info.NarHash, other.info.NarSize
	require.Equal(t, 201, u.send(t, http.MethodPut, "/"+other.info.URL, token, bytes.NewReader(other.archive)).status)
	require.Equal(t, 400, put(lying).status)
	require.Equal(t, 201, put(p).status)
}

func TestAPushInACompressedBodyIsDecoded(t *testing.T) {
	u := startUploadServer(t)
	token := u.token(t, "push")
	p := makePath(t, "hello", []byte("hello"))
	e, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	require.Equal(t, 400, u.send(t, http.MethodPut, "/"+p.info.URL, token, bytes.NewReader(p.archive), "Content-Encoding", "zstd").status)
	require.Equal(t, 201, u.send(t, http.MethodPut, "/"+p.info.URL, token, bytes.NewReader(p.archive)).status)
	require.Equal(t, 201, u.send(t, http.MethodPut, p.key(), token, bytes.NewReader(e.EncodeAll(p.narinfo(t), nil)),
		"Content-Encoding", "zstd").status)
	require.Equal(t, 400, u.send(t, http.MethodPut, p.key(), token, bytes.NewReader(p.narinfo(t)), "Content-Encoding", "br").status)
	require.Equal(t, 400, u.send(t, http.MethodPut, p.key(), token, bytes.NewReader(p.narinfo(t)), "Content-Encoding", "zstd").status)
	require.Equal(t, 200, get(t, u.URL+p.key()).status)
}

func newKey(t *testing.T, name string) *signing.SecretKey {
	t.Helper()
	key, err := signing.GenerateKey(name)
	require.NoError(t, err)
	return key
}

// A bomb of 64 GiB is given up at the limit, whatever its size in the end, and needs no memory.
func TestANARBombIsCutOff(t *testing.T) {
	u := startUploadServer(t, "--max-nar-size", "256MiB")
	const frame, frames = 64 << 20, 1024
	var head bytes.Buffer
	for _, s := range []string{"nix-archive-1", "(", "type", "regular", "contents"} {
		require.NoError(t, binary.Write(&head, binary.LittleEndian, uint64(len(s))))
		head.WriteString(s)
		head.Write(make([]byte, (8-len(s)%8)%8))
	}
	require.NoError(t, binary.Write(&head, binary.LittleEndian, uint64(frame*frames)))
	e, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	bomb := e.EncodeAll(head.Bytes(), nil)
	bomb = append(bomb, bytes.Repeat(e.EncodeAll(make([]byte, frame), nil), frames)...)
	hash := sha256.Sum256(bomb)
	name, err := narinfo.NewHash(narinfo.SHA256, hash[:])
	require.NoError(t, err)
	a := u.send(t, http.MethodPut, "/nar/"+name.Base32()+".nar.zst", u.token(t, "push"), bytes.NewReader(bomb))
	if a.err == nil { // else the connection was closed on the rest of it
		require.Equal(t, 413, a.status, "%s", a.body)
	}
	require.Equal(t, []string{"nix-cache-info"}, u.files(t))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", u.cmd.Process.Pid))
	require.NoError(t, err)
	var peak int
	_, after, ok := strings.Cut(string(status), "VmHWM:")
	require.True(t, ok)
	_, err = fmt.Sscan(after, &peak)
	require.NoError(t, err)
	require.Less(t, peak, 400<<10, "kB; a race detector's included")
}

// What is pushed a second time is not written a second time, and cuts nobody off who is just reading it.
func TestPushingAnArchiveAgainLeavesItsReadersAlone(t *testing.T) {
	u := startUploadServer(t)
	token := u.token(t, "push")
	noise := make([]byte, 24<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	p := makePath(t, "long", noise)
	u.push(t, token, p)
	resp, err := httpClient.Get(u.URL + "/" + u.narinfoFields(t, string(p.info.StorePath))["URL"])
	require.NoError(t, err)
	defer resp.Body.Close()
	head := make([]byte, 1<<20)
	_, err = io.ReadFull(resp.Body, head)
	require.NoError(t, err)
	u.push(t, token, p)
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(p.archive, append(head, rest...)))

	// What lies there and is wrong is written anew.
	require.NoError(t, os.WriteFile(u.Bucket+"/"+p.info.URL, make([]byte, len(p.archive)), 0o644))
	u.push(t, token, p)
	require.Equal(t, p.archive, get(t, u.URL+"/"+p.info.URL).body)
}

func TestAPathIsNotReplacedByOtherContent(t *testing.T) {
	u := startUploadServer(t)
	token := u.token(t, "push")
	first, second := makePath(t, "tool", []byte("right")), makePath(t, "tool", []byte("wrong"))
	u.push(t, token, first)
	require.Equal(t, 201, u.send(t, http.MethodPut, "/"+second.info.URL, token, bytes.NewReader(second.archive)).status)
	a := u.send(t, http.MethodPut, second.key(), token, bytes.NewReader(second.narinfo(t)))
	require.Equal(t, 409, a.status)
	require.Contains(t, string(a.body), "has to be deleted first")
	renamed := made{info: first.info.Clone()}
	renamed.info.StorePath = narinfo.StorePath(strings.Replace(string(first.info.StorePath), "-tool", "-other", 1))
	require.Equal(t, 409, u.send(t, http.MethodPut, renamed.key(), token, bytes.NewReader(renamed.narinfo(t))).status)
	require.Contains(t, string(get(t, u.URL+first.key()).body), first.info.NarHash.String())

	admin := u.token(t, "admin")
	require.Equal(t, 200, u.send(t, http.MethodDelete, second.key(), admin, nil).status)
	u.push(t, token, second)
	require.Contains(t, string(get(t, u.URL+second.key()).body), second.info.NarHash.String())
}

func TestHugeWindowsAreRefused(t *testing.T) {
	u := startUploadServer(t)
	token := u.token(t, "push")
	e, err := zstd.NewWriter(nil, zstd.WithWindowSize(64<<20))
	require.NoError(t, err)
	var archive bytes.Buffer
	e.Reset(&archive)
	p := makePath(t, "window", bytes.Repeat([]byte("0123456789"), 4<<20))
	_, err = e.Write(decode(t, p.archive))
	require.NoError(t, err)
	require.NoError(t, e.Close())
	sum := sha256.Sum256(archive.Bytes())
	name, err := narinfo.NewHash(narinfo.SHA256, sum[:])
	require.NoError(t, err)
	a := u.send(t, http.MethodPut, "/nar/"+name.Base32()+".nar.zst", token, bytes.NewReader(archive.Bytes()))
	require.Equal(t, 400, a.status, "%s", a.body)
	require.Contains(t, string(a.body), "window")
}

func TestARealisationThatIsTooLongIsTold(t *testing.T) {
	u := startUploadServer(t)
	path := "/realisations/sha256:" + strings.Repeat("0", 64) + "!out.doi"
	long := []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
	a := u.send(t, http.MethodPut, path, u.token(t, "push"), bytes.NewReader(long))
	require.Equal(t, 413, a.status, "%s", a.body)
	require.Equal(t, []string{"nix-cache-info"}, u.files(t))
}
