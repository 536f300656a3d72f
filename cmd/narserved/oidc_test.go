package main_test

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/oidctest"
	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/internal/tlstest"
)

const audience = "https://cache.example.org"

// startOIDCServer starts a server that takes pushes of an issuer's jobs on a main branch, and trusts a certificate
// authority of the test's own as any program does.
func startOIDCServer(t *testing.T, issuer string, ca *tlstest.Authority, args ...string) *uploadServer {
	t.Helper()
	t.Setenv("SSL_CERT_FILE", ca.File)
	config := writeConfig(t, fmt.Sprintf(`
[[oidc]]
issuer = %q
audience = %q
claims = { repository = ["voidnx/*"], ref = ["refs/heads/main"] }
scopes = ["push"]
name = "{repository}"
`, issuer, audience))
	return startUploadServer(t, append([]string{"--config", config, "--log-level", "debug"}, args...)...)
}

// job is the claims of a token that is right in every way, with changes.
func job(issuer string, changes map[string]any) map[string]any {
	now := time.Now().Unix()
	claims := map[string]any{
		"iss": issuer, "aud": audience, "sub": "repo:voidnx/nixtrap:ref:refs/heads/main", "repository": "voidnx/nixtrap",
		"ref": "refs/heads/main", "iat": now, "nbf": now - 5, "exp": now + 300,
	}
	maps.Copy(claims, changes)
	return claims
}

func TestEveryReleasePushesWithAnIDToken(t *testing.T) {
	top := realnix.Closure(t, 10)
	source := startServer(t, "--store", "local", "--compression", "none")
	ca, key := tlstest.New(t), oidctest.NewSigner(t, "k1")
	issuer := oidctest.New("", key)
	issuer.Serve(t, ca)
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			u := startOIDCServer(t, issuer.URL, ca)
			from, to := nix.TempDir(t), nix.TempDir(t)
			nix.Run(t, "nix", append(source.trusting(), "copy", "--from", source.URL, "--to", from, top)...)
			copyAs := func(token string) []string {
				return append(u.netrc(t, nix, token), "copy", "--from", from, "--no-check-sigs", "--to", u.URL+"?compression=zstd", top)
			}
			forged := oidctest.Token(t, oidctest.NewSigner(t, "k1"), job(issuer.URL, nil))
			require.Error(t, nix.Command(t, "nix", copyAs(forged)...).Run())
			require.Equal(t, []string{"nix-cache-info"}, u.files(t))

			nix.Run(t, "nix", copyAs(oidctest.Token(t, key, job(issuer.URL, nil)))...)
			require.Contains(t, u.log.String(), "voidnx/nixtrap", "the log has who it was")
			nix.Run(t, "nix", append(u.trusting(), "copy", "--refresh", "--from", u.URL, "--to", to, top)...)
			nix.Run(t, "nix", "store", "verify", "--store", to, "--recursive", "--no-trust", top)
		})
	}
}

func TestIDTokensThatProveNothingPushNothing(t *testing.T) {
	ca, key, strangers := tlstest.New(t), oidctest.NewSigner(t, "k1"), oidctest.NewSigner(t, "s1")
	issuer, stranger := oidctest.New("", key), oidctest.New("", strangers)
	issuer.Serve(t, ca)
	stranger.Serve(t, ca)
	u := startOIDCServer(t, issuer.URL, ca)
	p := makePath(t, "hello", []byte("hello"))

	now := time.Now().Unix()
	good := oidctest.Token(t, key, job(issuer.URL, nil))
	parts := strings.Split(good, ".")
	other := strings.Split(oidctest.Token(t, key, job(issuer.URL, map[string]any{"repository": "voidnx/other"})), ".")
	claim := func(name string, value any) string {
		return oidctest.Token(t, key, job(issuer.URL, map[string]any{name: value}))
	}
	for _, c := range []struct{ name, token, why string }{
		{"claims changed after signing", parts[0] + "." + other[1] + "." + parts[2], "signature"},
		{"another repository", claim("repository", "evil/nixtrap"), "its repository is"},
		{"another branch", claim("ref", "refs/heads/feature"), "its ref is"},
		{"another audience", claim("aud", "https://other.example.org"), "it is for"},
		{"another issuer", oidctest.Token(t, strangers, job(stranger.URL, nil)), "no issuer"},
		{"another issuer's key", oidctest.Token(t, strangers, job(issuer.URL, nil)), "has no key"},
		{"another key under the issuer's id", oidctest.Token(t, oidctest.NewSigner(t, "k1"), job(issuer.URL, nil)), "signature"},
		{"expired", claim("exp", now-120), "expired"},
		{"not valid yet", claim("nbf", now+600), "nbf is to come"},
		{"alg none", oidctest.Compact(t, map[string]any{"alg": "none", "kid": "k1"}, job(issuer.URL, nil),
			func([]byte) []byte { return nil }), "signed by"},
		{"the signature taken off", parts[0] + "." + parts[1] + ".", "signature"},
	} {
		seen := len(u.log.String())
		for _, path := range []string{"/" + p.info.URL, p.key()} {
			a := u.send(t, http.MethodPut, path, c.token, bytes.NewReader(p.archive))
			require.Equal(t, http.StatusUnauthorized, a.status, "%s: %s", c.name, a.body)
			require.Equal(t, "the credential is not valid here, or not any more\n", string(a.body), c.name)
			require.NotEmpty(t, a.header.Get("WWW-Authenticate"), c.name)
		}
		require.Contains(t, u.log.String()[seen:], c.why, "%s: the log says why", c.name)
		require.NotContains(t, u.log.String(), c.token, "%s: and not what was sent", c.name)
	}
	require.Equal(t, []string{"nix-cache-info"}, u.files(t))
	require.Zero(t, stranger.Count("/jwks"), "nobody asks an issuer that is not configured")
	require.Equal(t, 403, u.send(t, http.MethodDelete, p.key(), good, nil).status, "a right that the rule does not give")
	u.push(t, good, p)
	require.Equal(t, 200, get(t, u.URL+p.key()).status)
}

func TestAnIssuerThatIsDownLetsNobodyIn(t *testing.T) {
	ca, key := tlstest.New(t), oidctest.NewSigner(t, "k1")
	issuer := oidctest.New("", key)
	server := issuer.Serve(t, ca)
	good := oidctest.Token(t, key, job(issuer.URL, nil))
	p := makePath(t, "hello", []byte("hello"))
	put := func(u *uploadServer, token string) answer {
		return u.send(t, http.MethodPut, "/"+p.info.URL, token, bytes.NewReader(p.archive))
	}
	refused := func(u *uploadServer, why string) {
		t.Helper()
		for _, token := range []string{good, oidctest.Token(t, oidctest.NewSigner(t, "k1"), job(issuer.URL, nil))} {
			a := put(u, token)
			require.Equal(t, http.StatusServiceUnavailable, a.status, "%s: %s", why, a.body)
			require.Equal(t, "the credential cannot be checked now\n", string(a.body), why)
			require.NotEmpty(t, a.header.Get("Retry-After"), why)
		}
		require.Equal(t, []string{"nix-cache-info"}, u.files(t), why)
		require.Contains(t, u.log.String(), "keys of an OIDC issuer not fetched", why)
		require.Equal(t, http.StatusCreated, put(u, u.token(t, "push")).status, "%s: other credentials are as good as ever", why)
	}
	refused(startOIDCServer(t, issuer.URL, tlstest.New(t)), "a certificate of somebody else's")

	issuer.Set(func(i *oidctest.Issuer) {
		i.Discovery = func(w http.ResponseWriter) { http.Error(w, "down", http.StatusBadGateway) }
	})
	u := startOIDCServer(t, issuer.URL, ca)
	refused(u, "errors")
	issuer.Set(func(i *oidctest.Issuer) { i.Discovery = nil })
	require.Eventually(t, func() bool { return put(u, good).status == http.StatusCreated }, 30*time.Second, 50*time.Millisecond,
		"it is asked again")

	server.Close()
	require.Equal(t, http.StatusCreated, put(u, good).status, "its keys are known")
	forged := put(u, oidctest.Token(t, oidctest.NewSigner(t, "k1"), job(issuer.URL, nil)))
	require.Equal(t, http.StatusUnauthorized, forged.status)
	refused(startOIDCServer(t, issuer.URL, ca), "no connection")
}
