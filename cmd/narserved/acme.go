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

// acmeWarnEvery is how long autocert waits before it asks an authority again that gave it nothing.
const acmeWarnEvery = time.Minute

// acmeWatch tells of certificates that an authority does not give: net/http takes a failed handshake for the client's fault.
type acmeWatch struct {
	manager *autocert.Manager
	log     *slog.Logger

	mu   sync.Mutex // guards what follows
	told time.Time
}

// certificate implements tls.Config.GetCertificate.
func (w *acmeWatch) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	certificate, err := w.manager.GetCertificate(hello)
	if err != nil && w.isFault(hello) && w.isDue() {
		w.log.Warn("no certificate from the ACME authority", "host", hello.ServerName, "error", err)
	}
	return certificate, err
}

// isFault reports whether who asks should have got a certificate: not for another host, nor with a challenge of its own.
func (w *acmeWatch) isFault(hello *tls.ClientHelloInfo) bool {
	return w.manager.HostPolicy(hello.Context(), hello.ServerName) == nil &&
		!slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto})
}

func (w *acmeWatch) isDue() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if now.Sub(w.told) < acmeWarnEvery {
		return false
	}
	w.told = now
	return true
}
