package main

import (
	"crypto/tls"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// acmeManager gets certificates by the TLS-ALPN challenge, which needs port 443 and no other.
func (c *Config) acmeManager() *autocert.Manager {
	return &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(filepath.Join(c.StateDir, "acme")),
		HostPolicy: autocert.HostWhitelist(c.ACMEDomain...),
		Email:      c.ACMEEmail,
		Client:     &acme.Client{DirectoryURL: c.ACMEDirectory, UserAgent: "narserved"},
	}
}

const (
	// acmeWarnEvery is how long autocert waits before it asks an authority again that gave it nothing.
	acmeWarnEvery = time.Minute
	// acmeAgedEvery is how often a certificate is spoken of that is not renewed.
	acmeAgedEvery = time.Hour
)

// acmeWatch tells of certificates that an authority does not give: net/http takes a failed handshake for the client's fault,
// and autocert renews in silence.
type acmeWatch struct {
	manager *autocert.Manager
	log     *slog.Logger

	mu         sync.Mutex // guards what follows
	told, aged time.Time  // when either was last told
}

// certificate implements tls.Config.GetCertificate.
func (w *acmeWatch) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certificate, err := w.manager.GetCertificate(hello)
	switch {
	case err != nil && w.isFault(hello) && w.isDue(&w.told, acmeWarnEvery):
		w.log.Warn("no certificate from the ACME authority", "host", hello.ServerName, "error", err)
	case err == nil && isAged(certificate) && w.isDue(&w.aged, acmeAgedEvery):
		w.log.Warn("the ACME authority does not renew a certificate", "host", hello.ServerName, "until", certificate.Leaf.NotAfter)
	}
	return certificate, err
}

// isAged reports whether less than a quarter of a certificate's time is left: autocert renews with more, if it can.
func isAged(c *tls.Certificate) bool {
	return c.Leaf != nil && time.Until(c.Leaf.NotAfter) < c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)/4
}

// isFault reports whether who asks should have got a certificate: not for another host, nor with a challenge of its own.
func (w *acmeWatch) isFault(hello *tls.ClientHelloInfo) bool {
	return w.manager.HostPolicy(hello.Context(), hello.ServerName) == nil &&
		!slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto})
}

// isDue reports whether something that was last told then is to be told again.
func (w *acmeWatch) isDue(then *time.Time, every time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if now.Sub(*then) < every {
		return false
	}
	*then = now
	return true
}
