package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// tlsConfig is nil without TLS. reload reads certificates again, whether or not their files changed.
func (c *Config) tlsConfig(env environ, log *slog.Logger) (config *tls.Config, reload func(), err error) {
	config, reload, err = c.serverTLS(env, log)
	if err != nil || c.ClientCA == "" {
		return config, reload, err
	}
	text, err := os.ReadFile(credential(env, c.ClientCA))
	if err != nil {
		return nil, nil, hint(fmt.Errorf("client-ca: %w", err), "name an existing PEM file")
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(text) {
		return nil, nil, hint(fmt.Errorf("client-ca: %s has no certificate", c.ClientCA), "the file is PEM")
	}
	config.ClientAuth = tls.VerifyClientCertIfGiven
	return config, reload, nil
}

func (c *Config) serverTLS(env environ, log *slog.Logger) (config *tls.Config, reload func(), err error) {
	switch {
	case c.TLSCert != "":
		pair := &keyPair{certFile: credential(env, c.TLSCert), keyFile: credential(env, c.TLSKey), log: log}
		if err := pair.load(pair.stat()); err != nil {
			return nil, nil, hint(err, "both files are PEM; the certificate's own must come first in its file")
		}
		config = &tls.Config{GetCertificate: pair.certificate, NextProtos: []string{"h2", "http/1.1"}}
		return config, pair.reload, nil
	case len(c.ACMEDomain) > 0:
		manager := c.acmeManager()
		config = manager.TLSConfig()
		config.GetCertificate = (&acmeWatch{manager: manager, log: log}).certificate
		return config, func() {}, nil
	}
	return nil, func() {}, nil
}

const (
	pairCheckEvery = time.Second // between looks at the files
	expiryWarning  = 14 * 24 * time.Hour
)

// keyPair is a certificate in two files that may change while it is in use.
type keyPair struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex // guards what follows
	current *tls.Certificate
	seen    []os.FileInfo // of the files when they were last read
	checked time.Time
}

// certificate implements tls.Config.GetCertificate. It looks for new files at most once a second.
func (p *keyPair) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.checked) >= pairCheckEvery {
		p.checked = now
		if files := p.stat(); !slices.EqualFunc(files, p.seen, sameFile) {
			p.loadOrKeep(files)
		}
	}
	return p.current, nil
}

func (p *keyPair) reload() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loadOrKeep(p.stat())
}

func (p *keyPair) loadOrKeep(files []os.FileInfo) {
	if err := p.load(files); err != nil {
		p.log.Error("new TLS certificate refused, the old one stays in use", "error", err)
	}
}

// load reads the pair. On error the old one stays, and is not tried again until the files change.
func (p *keyPair) load(files []os.FileInfo) error {
	p.seen = files
	pair, err := tls.LoadX509KeyPair(p.certFile, p.keyFile)
	if err != nil {
		return fmt.Errorf("tls: %s and %s: %v", p.certFile, p.keyFile, err)
	}
	p.current = &pair
	level := slog.LevelInfo
	if time.Until(pair.Leaf.NotAfter) < expiryWarning {
		level = slog.LevelWarn
	}
	p.log.Log(context.Background(), level, "TLS certificate in use",
		"names", names(pair.Leaf), "not_after", pair.Leaf.NotAfter)
	return nil
}

func names(leaf *x509.Certificate) []string {
	all := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		all = append(all, ip.String())
	}
	return all
}

// stat has a nil for a file that cannot be looked at.
func (p *keyPair) stat() []os.FileInfo {
	infos := make([]os.FileInfo, 2)
	for i, file := range []string{p.certFile, p.keyFile} {
		if info, err := os.Stat(file); err == nil {
			infos[i] = info
		}
	}
	return infos
}

func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
