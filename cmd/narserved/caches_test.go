package main_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/pgtest"
	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/internal/s3test"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.toml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	return file
}

// pushTo uploads a path to the cache at a prefix, "" or "/NAME".
func (u *uploadServer) pushTo(t *testing.T, prefix, token string, p made) {
	t.Helper()
	require.Equal(t, 201, u.send(t, http.MethodPut, prefix+"/"+p.info.URL, token, bytes.NewReader(p.archive)).status)
	require.Equal(t, 201, u.send(t, http.MethodPut, prefix+p.key(), token, bytes.NewReader(p.narinfo(t))).status)
}

func TestAPrivateCacheTellsNobodyWhatItHas(t *testing.T) {
	u := startUploadServer(t, "--config", writeConfig(t, `
[[cache]]
name = "team"
private = true
[[cache]]
name = "open"
`))
	team := u.token(t, "push", "--cache", "team", "--scope", "read")
	open, root := u.token(t, "push", "--cache", "open"), u.token(t, "push", "--cache", "")
	p := makePath(t, "secret", []byte("secret"))
	absent := makePath(t, "absent", []byte("absent"))
	u.pushTo(t, "/team", team, p)

	// Present or absent, without a right all answers are alike.
	strip := func(a answer) answer {
		a.header.Del("Date")
		return a
	}
	for name, token := range map[string]string{"nobody": "", "another cache's": open, "the root's": root, "forged": team + "x"} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for _, pair := range [][2]string{
				{p.key(), absent.key()}, {"/" + p.info.URL, "/" + absent.info.URL},
				{"/nar/" + string(p.info.StorePath.HashPart()) + "-" + p.info.NarHash.Base32() + ".nar.zst",
					"/nar/" + string(absent.info.StorePath.HashPart()) + "-" + absent.info.NarHash.Base32() + ".nar.zst"},
				{"/serve/" + string(p.info.StorePath.HashPart()), "/serve/" + string(absent.info.StorePath.HashPart())},
				{"/" + string(p.info.StorePath.HashPart()) + ".ls", "/" + string(absent.info.StorePath.HashPart()) + ".ls"},
				{"/nix-cache-info", "/anything"}, {"/", "/log/x"},
			} {
				here := strip(u.send(t, method, "/team"+pair[0], token, nil))
				there := strip(u.send(t, method, "/team"+pair[1], token, nil))
				require.Contains(t, []int{401, 403}, here.status, "%s: %s", name, pair[0])
				require.Equal(t, here, there, "%s: %s", name, pair[0])
			}
		}
		require.NotEqual(t, 200, u.send(t, http.MethodGet, p.key(), token, nil).status, "the root does not have it")
		require.NotEqual(t, 200, u.send(t, http.MethodGet, "/open"+p.key(), token, nil).status, "nor has another cache")
		if token != "" && name != "forged" {
			require.Equal(t, 403, u.send(t, http.MethodPut, "/team/"+p.info.URL, token, bytes.NewReader(p.archive)).status)
		}
	}

	a := u.send(t, http.MethodGet, "/team"+p.key(), team, nil)
	require.Equal(t, 200, a.status)
	require.Contains(t, a.header.Get("Cache-Control"), "private")

	// Who knows the archive's name, and has not uploaded it, gets nothing by naming it.
	thief := p
	thief.info = p.info.Clone()
	require.Equal(t, 409, u.send(t, http.MethodPut, "/open"+thief.key(), open, bytes.NewReader(thief.narinfo(t))).status)
	require.Equal(t, 404, u.send(t, http.MethodHead, "/open/"+p.info.URL, open, nil).status)
	require.Equal(t, 404, u.send(t, http.MethodGet, "/open/"+p.info.URL, open, nil).status)
	u.pushTo(t, "/open", open, p)
	require.Equal(t, 200, get(t, u.URL+"/open"+p.key()).status, "but by uploading it whole")
	var archives int
	for _, file := range u.files(t) {
		if strings.HasPrefix(file, "nar/") {
			archives++
		}
	}
	require.Equal(t, 1, archives, "it is kept once")
}

// A private cache that is there and one that is not answer strangers alike, whatever they ask for, so that its name is not
// found out by trying.
func TestNobodyFindsOutTheNameOfAPrivateCache(t *testing.T) {
	u := startUploadServer(t, "--config", writeConfig(t, `
[[cache]]
name = "team"
private = true
[[cache]]
name = "open"
`))
	all, reader := u.token(t, "push", "--scope", "read,admin"), u.token(t, "read", "--cache", "team")
	tokens := map[string]string{"nobody": "", "another cache's": u.token(t, "push", "--cache", "open"),
		"the root's": u.token(t, "push", "--scope", "read,admin", "--cache", ""), "forged": reader + "x"}
	p := makePath(t, "secret", []byte("secret"))
	u.pushTo(t, "/team", all, p)
	seen := func(method, path, token string) answer {
		a := u.send(t, method, path, token, strings.NewReader("x"))
		a.header.Del("Date")
		return a
	}
	for who, token := range tokens {
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "POST", "OPTIONS", "BREW"} {
			for _, path := range []string{"", "/", "/nix-cache-info", p.key(), p.key() + "?json", "/" + p.info.URL, "/missing-paths",
				"/healthz", "/log/x", "/%2e%2e/x", "/a/b/c"} {
				there, nowhere := seen(method, "/team"+path, token), seen(method, "/taem"+path, token)
				nowhere.body = []byte(strings.ReplaceAll(string(nowhere.body), "taem", "team"))
				require.Equal(t, there, nowhere, "%s: %s %s", who, method, path)
			}
		}
	}
	require.Equal(t, 404, u.send(t, http.MethodGet, "/taem/nix-cache-info", all, nil).status, "who may read everywhere is told")
	require.Equal(t, 404, u.send(t, http.MethodGet, "/absent.narinfo/x", "", nil).status, "no cache can have that name")
	require.Equal(t, 200, u.send(t, http.MethodGet, "/nix-cache-info", "", nil).status)
}

// What is denied to a credential says which right it would need, and where.
func TestForbiddenSaysWhichScopeIsMissingWhere(t *testing.T) {
	u := startUploadServer(t, "--config", writeConfig(t, "[[cache]]\nname = \"team\"\nprivate = true\n"))
	root, team := u.token(t, "read", "--cache", ""), u.token(t, "push", "--cache", "team")
	for _, row := range []struct{ method, path, token, want string }{
		{"PUT", "/x.narinfo", root, `forbidden: this credential lacks the scope push in the cache at the root`},
		{"DELETE", "/x.narinfo", root, `forbidden: this credential lacks the scope admin in the cache at the root`},
		{"POST", "/missing-paths", root, `forbidden: this credential lacks the scope push in the cache at the root`},
		{"PUT", "/x.narinfo", team, `forbidden: this credential lacks the scope push in the cache at the root`},
		{"GET", "/team/x.narinfo", root, `forbidden: this credential lacks the scope read in the cache "team"`},
		{"PUT", "/team/x.narinfo", root, `forbidden: this credential lacks the scope push in the cache "team"`},
		{"DELETE", "/team/x.narinfo", team, `forbidden: this credential lacks the scope admin in the cache "team"`},
		{"GET", "/taem/x.narinfo", team, `forbidden: this credential lacks the scope read in the cache "taem"`},
	} {
		a := u.send(t, row.method, row.path, row.token, nil)
		require.Equal(t, 403, a.status, "%s %s", row.method, row.path)
		require.Equal(t, row.want+"\n", string(a.body), "%s %s", row.method, row.path)
	}
}

// A name of a cache is the same however it is spelled: the rights that are asked for are those of the cache that answers.
func TestEncodedNamesOfCachesLeadToTheSameRights(t *testing.T) {
	u := startUploadServer(t, "--config", writeConfig(t, "[[cache]]\nname = \"team\"\nprivate = true\n"))
	team, root := u.token(t, "push", "--cache", "team"), u.token(t, "push", "--cache", "", "--scope", "read")
	p := makePath(t, "secret", []byte("secret"))
	u.pushTo(t, "/team", team, p)
	for _, path := range []string{"/team%2f", "/team%2F", "/%74eam/", "/te%61m%2F", "//team/", "/./team/", "/%2e/team/", "/open/../team/",
		"/%2e%2e/team/", "/team%2f%2f", "/team//", "/%2fteam/", "/team%252f", "/TEAM/", "/team%00/", "/nar/%2e%2e/team/", "/nar/..%2fteam%2f",
		"/serve/../team/", "/team\\"} {
		for who, token := range map[string]string{"nobody": "", "the root's": root} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete} {
				a := u.send(t, method, path+strings.TrimPrefix(p.key(), "/"), token, bytes.NewReader(p.narinfo(t)))
				require.Contains(t, []int{400, 401, 403, 404}, a.status, "%s: %s %s", who, method, path)
				require.NotContains(t, string(a.body), "secret", "%s: %s %s", who, method, path)
			}
		}
		require.Contains(t, []int{200, 307, 400, 401, 403, 404},
			u.send(t, http.MethodGet, path+strings.TrimPrefix(p.key(), "/"), team, nil).status, path)
	}
	require.Equal(t, 200, u.send(t, http.MethodGet, "/%74eam%2f"+strings.TrimPrefix(p.key(), "/"), team, nil).status, "that is its name, too")
	require.Equal(t, 200, u.send(t, http.MethodGet, "/team"+p.key(), team, nil).status)
}

func TestEveryReleaseReadsANamedCacheWithAndWithoutTheServer(t *testing.T) {
	top, _ := someClosure(t)
	source := startServer(t, "--store", "local", "--compression", "none")
	text, err := newKey(t, "team-1").MarshalText()
	require.NoError(t, err)
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, text, 0o600))
	u := startUploadServer(t, "--config", writeConfig(t, "[[cache]]\nname = \"team\"\nprivate = true\nsign-key = [\""+key+"\"]\n"))
	token := u.token(t, "push", "--scope", "read", "--cache", "team")
	for i, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			netrc := u.netrc(t, nix, token)
			if i == 0 {
				from := nix.TempDir(t)
				nix.Run(t, "nix", append(source.trusting(), "copy", "--from", source.URL, "--to", from, top)...)
				nix.Run(t, "nix", append(netrc, "copy", "--from", from, "--no-check-sigs", "--to", u.URL+"/team?compression=zstd", top)...)
			}
			to := nix.TempDir(t)
			nix.Run(t, "nix", append(append(netrc, source.trusting()...), "copy", "--from", u.URL+"/team", "--to", to, top)...)
			nix.Run(t, "nix", "store", "verify", "--store", to, "--recursive", "--no-trust", top)
			require.Error(t, nix.Command(t, "nix", "copy", "--from", u.URL+"/team", "--to", nix.TempDir(t), top).Run(),
				"without a token")

			// A web server over the bucket serves the folder as it is: the archives are beside it.
			plain := startFileServer(t, u.Bucket)
			nix.Run(t, "nix", append(source.trusting(), "copy", "--from", plain+"/team", "--to", nix.TempDir(t), top)...)
		})
	}
}

func TestPushAndPullThroughS3AndPostgreSQL(t *testing.T) {
	top, _ := someClosure(t)
	source := startServer(t, "--store", "local", "--compression", "none")
	bucket, catalog := s3test.Start(t), pgtest.Start(t).Database(t)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", bucket.CredentialsFile)
	uri := fmt.Sprintf("s3://%s?endpoint=%s&region=%s", bucket.Bucket, url.QueryEscape(bucket.URL), s3test.Region)
	u := startUploadServer(t, "--store", uri, "--catalog", catalog)
	replica := startServer(t, "--upload", "--store", uri, "--catalog", catalog, "--token-file", u.tokens)
	token := u.token(t, "push")
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			from := nix.TempDir(t)
			nix.Run(t, "nix", append(source.trusting(), "copy", "--from", source.URL, "--to", from, top)...)
			nix.Run(t, "nix", append(u.netrc(t, nix, token), "copy", "--from", from, "--no-check-sigs",
				"--to", u.URL+"?compression=zstd", top)...)
			to := nix.TempDir(t)
			nix.Run(t, "nix", append(replica.trusting(), "copy", "--from", replica.URL, "--to", to, top)...)
			nix.Run(t, "nix", "store", "verify", "--store", to, "--recursive", "--no-trust", top)
		})
	}
}

// With a catalog that several servers share a token is made once and revoked once, for all of them. A tokens file from before
// goes on to count at the server that has it.
func TestReplicasShareTokens(t *testing.T) {
	database, dir := pgtest.Start(t).Database(t), t.TempDir()
	args := []string{"--upload", "--store", "file://" + dir + "/bucket", "--catalog", database}
	old := startUploadServer(t)
	before := old.token(t, "push")
	one := startServer(t, append(args, "--token-file", old.tokens)...)
	two := startServer(t, append(args, "--token-file", dir+"/none.json")...)
	reader := startServer(t, "--private", "--store", "file://"+dir+"/bucket", "--catalog", database, "--token-file", dir+"/none.json")
	command := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "narserved", append(args, "--catalog", database, "--token-file", old.tokens)...)
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		require.NoError(t, err, said.String())
		require.NotContains(t, said.String(), database, "it may have a password")
		return strings.TrimSpace(string(out))
	}
	status := func(s *server, method, path, token string) int {
		t.Helper()
		return (&uploadServer{server: s}).send(t, method, path, token, strings.NewReader("x")).status
	}
	token := command("token", "create", "--name", "shared", "--scope", "push,read")
	other := command("token", "create", "--name", "elsewhere", "--scope", "push", "--cache", "other", "--expires", "90d")
	for _, s := range []*server{one, two} {
		require.Equal(t, 400, status(s, http.MethodPut, "/x", token), "who may push is told what is wrong with it")
		require.Equal(t, 403, status(s, http.MethodPut, "/x", other), "the caches of a token are kept")
		require.Equal(t, 401, status(s, http.MethodPut, "/x", token[:len(token)-2]+"AA"))
	}
	require.Equal(t, 200, status(reader, http.MethodGet, "/nix-cache-info", token), "a server without uploads, too")
	require.Equal(t, 401, status(reader, http.MethodGet, "/nix-cache-info", ""))
	require.Equal(t, 400, status(one, http.MethodPut, "/x", before))
	require.Equal(t, 401, status(two, http.MethodPut, "/x", before), "a file is one server's")
	require.NoFileExists(t, dir+"/none.json")
	list := command("token", "list")
	require.Regexp(t, `(?m)^[a-z2-7]{16}  active  read,push +\*  +\S+Z  never +shared$`, list)
	require.Regexp(t, `(?m)^[a-z2-7]{16}  active  push +other +\S+Z  20\S+Z  elsewhere$`, list)
	require.Contains(t, list, "pusher", "those of the file, too")

	command("token", "revoke", token)
	command("token", "revoke", before)
	refused := func(s *server, method, token string) func() bool {
		return func() bool { return status(s, method, "/x", token) == 401 }
	}
	for _, check := range []func() bool{refused(one, http.MethodPut, token), refused(two, http.MethodPut, token),
		refused(reader, http.MethodGet, token), refused(one, http.MethodPut, before)} {
		require.Eventually(t, check, 8*time.Second, 100*time.Millisecond, "within 5 seconds, and what a slow machine takes")
	}
	require.Equal(t, 403, status(one, http.MethodPut, "/x", other), "others are not revoked")
	require.Contains(t, command("token", "list"), "  revoked  ")
	out, err := exec.CommandContext(t.Context(), "narserved", "token", "revoke", "aaaaaaaaaaaaaaaa", "--catalog", database,
		"--token-file", dir+"/no/file").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "no token of that ID in the catalog\n")
}

func TestUploadsWithAClientCertificate(t *testing.T) {
	dir := t.TempDir()
	ca, caKey := issue(t, dir, "ca", nil, nil)
	issue(t, dir, "server", ca, caKey)
	issue(t, dir, "ci-1", ca, caKey)
	issue(t, dir, "stranger", ca, caKey)
	address := freeAddress(t)
	config := writeConfig(t, "[[client-cert]]\ncommon-name = \"ci-*\"\nscopes = [\"push\"]\n")
	cmd := exec.CommandContext(t.Context(), "narserved", "serve", "--config", config, "--listen", address, "--state-dir", dir,
		"--upload", "--store", "file://"+dir+"/bucket", "--tls-cert", dir+"/server.pem", "--tls-key", dir+"/server.key",
		"--client-ca", dir+"/ca.pem")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() })
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		return err == nil && conn.Close() == nil
	}, 10*time.Second, 10*time.Millisecond)
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	u := "https://localhost:" + port
	p := makePath(t, "hello", []byte("hello"))
	for name, status := range map[string]int{"ci-1": 201, "stranger": 401, "": 401} {
		config := &tls.Config{RootCAs: x509.NewCertPool()}
		config.RootCAs.AddCert(ca)
		if name != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
			require.NoError(t, err)
			config.Certificates = []tls.Certificate{pair}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: time.Minute}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, u+"/"+p.info.URL, bytes.NewReader(p.archive))
		require.NoError(t, err)
		resp, err := client.Do(req)
		require.NoError(t, err, name)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, status, resp.StatusCode, name)
		client.CloseIdleConnections()
	}
}

// startFileServer serves a directory as any web server does.
func startFileServer(t *testing.T, dir string) (address string) {
	t.Helper()
	s := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(s.Close)
	return s.URL
}

// issue makes a certificate for localhost and a name, and its files; one without an authority is an authority.
func issue(t *testing.T, dir, name string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost", name + ".example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ca == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
		ca, caKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	require.NoError(t, err)
	made, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	keyText, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	write := func(file, kind string, b []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600))
	}
	write(name+".pem", "CERTIFICATE", der)
	write(name+".key", "EC PRIVATE KEY", keyText)
	return made, key
}
