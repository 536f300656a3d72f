package main_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/acmetest"
	"github.com/voidnxlab/nixtrap/internal/realnix"
)

// acmeHost is a host of which curl, and so Nix, knows by itself that it is this machine (RFC 6761).
const acmeHost = "cache.localhost"

// acmeServer is a narserved that gets its certificates from an authority of the test's own.
type acmeServer struct {
	address   string
	state     string
	authority *acmetest.Server
	args      []string
}

func newACMEServer(t *testing.T, lifetime time.Duration, args ...string) *acmeServer {
	t.Helper()
	a := &acmeServer{address: freeAddress(t), state: t.TempDir()}
	_, text, err := net.SplitHostPort(a.address)
	require.NoError(t, err)
	port, err := strconv.Atoi(text)
	require.NoError(t, err)
	a.authority = acmetest.Start(t, acmetest.Options{Port: port, Lifetime: lifetime})
	a.args = append([]string{"--state-dir", a.state, "--listen", a.address, "--acme-domain", acmeHost,
		"--acme-email", "operator@example.org", "--acme-directory", a.authority.Directory}, args...)
	return a
}

func (a *acmeServer) start(t *testing.T) (d *daemon, url string) {
	t.Helper()
	d = startDaemon(t, []string{"SSL_CERT_FILE=" + a.authority.AuthorityFile}, "narserved", a.args...)
	url = d.url(t)
	require.Regexp(t, "^https://cache.localhost:", url)
	return d, url
}

// fetch asks for a host's nix-cache-info over a new connection and returns the certificate, which the authority's root
// vouches for.
func (a *acmeServer) fetch(t *testing.T, host string) (*x509.Certificate, error) {
	t.Helper()
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(a.authority.Root))
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, a.address)
		},
		TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Get("https://" + host + "/nix-cache-info")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, 2, resp.ProtoMajor)
	return resp.TLS.PeerCertificates[0], nil
}

func TestACMECertificateIsFetchedOnceForTheConfiguredHostOnly(t *testing.T) {
	top := realnix.Closure(t, 10)
	a := newACMEServer(t, 0, "--store", "local", "--compression", "none", "--unsigned")
	var first *x509.Certificate
	for _, round := range []string{"fetched", "kept over a restart"} {
		d, url := a.start(t)
		cert, err := a.fetch(t, acmeHost)
		require.NoError(t, err, round)
		require.Equal(t, []string{acmeHost}, cert.DNSNames)
		if first == nil {
			first = cert
		}
		require.Equal(t, first.SerialNumber, cert.SerialNumber, round)
		_, err = a.fetch(t, "other.localhost")
		require.Error(t, err, "no certificate is asked for another host")
		require.Equal(t, 1, a.authority.Issued(t), round)
		for _, file := range []string{"acme_account+key", acmeHost} {
			info, err := os.Stat(filepath.Join(a.state, "acme", file))
			require.NoError(t, err)
			require.EqualValues(t, 0o600, info.Mode(), "%s holds a key", file)
		}
		for _, nix := range realnix.All(t) {
			dir := nix.TempDir(t)
			require.NoError(t, os.WriteFile(nix.Host(dir)+"/root.pem", a.authority.Root, 0o644))
			copied := nix.Command(t, "nix", "copy", "--from", url, "--no-check-sigs", "--to", dir+"/store", top)
			copied.Env = append(copied.Env, "NIX_SSL_CERT_FILE="+dir+"/root.pem")
			out, err := copied.CombinedOutput()
			require.NoError(t, err, "%s", out)
			nix.Run(t, "nix", "store", "verify", "--store", dir+"/store", "--recursive", "--no-trust", top)
		}
		d.stop(t)
	}
}

func TestACMECertificateIsRenewedBeforeItEnds(t *testing.T) {
	a := newACMEServer(t, 10*time.Second, "--store", newBucket(t).URI())
	a.start(t)
	first, err := a.fetch(t, acmeHost)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		cert, err := a.fetch(t, acmeHost)
		return err == nil && cert.SerialNumber.Cmp(first.SerialNumber) != 0
	}, time.Minute, 100*time.Millisecond, "another certificate without a restart")
	kept, err := os.ReadFile(filepath.Join(a.state, "acme", acmeHost))
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(kept, kept)
	require.NoError(t, err)
	require.NotEqual(t, first.SerialNumber, pair.Leaf.SerialNumber, "and the next start has it too")
}

func TestACertificateThatIsNotRenewedIsToldBeforeItEnds(t *testing.T) {
	a := newACMEServer(t, 16*time.Second, "--store", newBucket(t).URI())
	d, _ := a.start(t)
	_, err := a.fetch(t, acmeHost)
	require.NoError(t, err)
	d.stop(t)
	a.args = append(a.args, "--acme-directory", "https://"+freeAddress(t)+"/dir")
	d, _ = a.start(t)
	require.Eventually(t, func() bool {
		_, _ = a.fetch(t, acmeHost)
		return strings.Contains(d.log.String(), `msg="the ACME authority does not renew a certificate" host=cache.localhost until=`)
	}, time.Minute, 100*time.Millisecond)
}

func TestAnAuthorityThatGivesNoCertificateIsToldOnceAMinute(t *testing.T) {
	address := freeAddress(t)
	d := startDaemon(t, nil, "narserved", "--state-dir", t.TempDir(), "--listen", address, "--store", newBucket(t).URI(),
		"--log-level", "debug", "--acme-domain", acmeHost, "--acme-directory", "https://"+freeAddress(t)+"/dir")
	d.url(t)
	const warning = `level=WARN msg="no certificate from the ACME authority" host=`
	for _, host := range []string{"other.localhost", acmeHost, acmeHost} {
		conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: host})
		if err == nil {
			conn.Close()
		}
		require.Error(t, err, host)
	}
	d.says(t, warning+`cache.localhost error=.*connection refused`)
	d.stop(t)
	require.Equal(t, 1, strings.Count(d.log.String(), warning), "not of who asks for another host, nor of each client")
}
