package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// certificate is a self-signed certificate for localhost, with its key, as PEM.
type certificate struct {
	certPEM, keyPEM []byte
	parsed          *x509.Certificate
}

func newCertificate(t *testing.T, serial int64, valid time.Duration) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(valid),
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return certificate{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		parsed,
	}
}

func (c certificate) write(t *testing.T, certFile, keyFile string) {
	t.Helper()
	require.NoError(t, os.WriteFile(certFile, c.certPEM, 0o644))
	require.NoError(t, os.WriteFile(keyFile, c.keyPEM, 0o600))
}

// serial fetches nix-cache-info over a new connection and says which certificate the server showed.
func serial(t *testing.T, url string) int64 {
	t.Helper()
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, // the test looks at the certificate itself
		ServerName:         "localhost",
	}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get(url + "/nix-cache-info")
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, 2, resp.ProtoMajor, "HTTP/2 over TLS")
	return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
}

func TestTLSFilesAreReloaded(t *testing.T) {
	certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	newCertificate(t, 1, 90*24*time.Hour).write(t, certFile, keyFile)
	d := startDaemon(t, nil, "narserved", "--state-dir", t.TempDir(), "--store", newBucket(t).URI(),
		"--listen", "127.0.0.1:0", "--tls-cert", certFile, "--tls-key", keyFile)
	url := d.url(t)
	require.Regexp(t, "^https://", url)
	require.EqualValues(t, 1, serial(t, url))
	resp, err := http.Get("http" + url[len("https"):])
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusBadRequest, resp.StatusCode, "plain HTTP on the same port")

	newCertificate(t, 2, 90*24*time.Hour).write(t, certFile, keyFile)
	require.Eventually(t, func() bool { return serial(t, url) == 2 },
		5*time.Second, 50*time.Millisecond, "a new pair is seen")

	require.NoError(t, os.WriteFile(certFile, newCertificate(t, 3, 90*24*time.Hour).certPEM, 0o644))
	require.Eventually(t, func() bool {
		require.EqualValues(t, 2, serial(t, url), "a pair that does not fit keeps the old one")
		return strings.Contains(d.log.String(), `level=ERROR msg="new TLS certificate refused`)
	}, 5*time.Second, 50*time.Millisecond)

	newCertificate(t, 4, 24*time.Hour).write(t, certFile, keyFile)
	d.signal(t, syscall.SIGHUP)
	d.says(t, `level=WARN msg="TLS certificate in use"`)
	require.EqualValues(t, 4, serial(t, url), "SIGHUP does not wait")
}

func TestTLSPairThatDoesNotFitIsRefusedAtStart(t *testing.T) {
	certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	newCertificate(t, 1, time.Hour).write(t, certFile, keyFile)
	require.NoError(t, os.WriteFile(keyFile, newCertificate(t, 2, time.Hour).keyPEM, 0o600))
	d := startDaemon(t, nil, "narserved", "--state-dir", t.TempDir(), "--store", newBucket(t).URI(),
		"--listen", "127.0.0.1:0", "--tls-cert", certFile, "--tls-key", keyFile)
	require.Equal(t, 1, d.exit(t))
	require.Contains(t, d.log.String(), "does not match")
	require.Contains(t, d.log.String(), "hint: ")
}

func TestTLSFilesMayBeSystemdCredentials(t *testing.T) {
	credentials := t.TempDir()
	newCertificate(t, 7, 90*24*time.Hour).write(t, filepath.Join(credentials, "cert"), filepath.Join(credentials, "key"))
	d := startDaemon(t, []string{"CREDENTIALS_DIRECTORY=" + credentials}, "narserved", "--state-dir", t.TempDir(),
		"--store", newBucket(t).URI(), "--listen", "127.0.0.1:0", "--tls-cert", "cert", "--tls-key", "key")
	require.EqualValues(t, 7, serial(t, d.url(t)))
}
