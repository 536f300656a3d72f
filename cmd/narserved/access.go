package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/clientcert"
	"github.com/voidnxlab/nixtrap/httpcache/oidc"
	"github.com/voidnxlab/nixtrap/httpcache/token"
)

// OIDCConfig says which ID tokens of an issuer stand for whom: a table [[oidc]] of the configuration file.
type OIDCConfig struct {
	// Issuer is its URL, such as "https://token.actions.githubusercontent.com".
	Issuer string `toml:"issuer"`
	// Audience is what the tokens must be meant for, such as this cache's URL.
	Audience string `toml:"audience"`
	// Claims are patterns with *, of which one must fit, by the name of the claim. All claims must fit.
	Claims map[string][]string `toml:"claims"`
	// Scopes are "read", "push" and "admin"; Caches the names of caches, default: all.
	Scopes []httpcache.Scope `toml:"scopes"`
	Caches []string          `toml:"caches"`
	// Name is for the log and the catalog, with claims in braces: "{repository}". Default: "{sub}".
	Name string `toml:"name"`
}

// CertConfig says who a client certificate stands for: a table [[client-cert]] of the configuration file. Patterns may
// have *; at least one is set, and all that are set must fit.
type CertConfig struct {
	CommonName string `toml:"common-name"`
	DNSName    string `toml:"dns-name"`
	URI        string `toml:"uri"`
	Email      string `toml:"email"`
	// Scopes are "read", "push" and "admin"; Caches the names of caches, default: all.
	Scopes []httpcache.Scope `toml:"scopes"`
	Caches []string          `toml:"caches"`
	// Name is for the log and the catalog. Default: what fitted the first pattern.
	Name string `toml:"name"`
}

// access is everybody who can be known. closer is to be closed at the end.
func (c *Config) access(log *slog.Logger) (_ httpcache.Authorizer, closer io.Closer, err error) {
	var all []httpcache.Authorizer
	if len(c.ClientCert) > 0 {
		var rules []clientcert.Rule
		for _, r := range c.ClientCert {
			rules = append(rules, clientcert.Rule{
				CommonName: r.CommonName, DNSName: r.DNSName, URI: r.URI, Email: r.Email, Name: r.Name,
				Scopes: union(r.Scopes), Caches: r.Caches,
			})
		}
		certs, err := clientcert.New(rules)
		if err != nil {
			return nil, nil, usageError{hint(err, "each [[client-cert]] has a pattern and scopes")}
		}
		all = append(all, certs)
	}
	if c.TokenFile != "" {
		all = append(all, token.New(&token.FileStore{Path: c.TokenFile}, nil))
	}
	closer = io.NopCloser(nil)
	if len(c.OIDC) > 0 {
		var issuers []oidc.Issuer
		for _, i := range c.OIDC {
			issuers = append(issuers, oidc.Issuer{
				URL: i.Issuer, Audience: i.Audience, Claims: i.Claims, Scopes: union(i.Scopes), Caches: i.Caches, Name: i.Name,
			})
		}
		authorizer, err := oidc.New(issuers, &oidc.Options{Logger: log})
		if err != nil {
			return nil, nil, usageError{hint(err, "see [[oidc]] in docs/operations.md")}
		}
		all, closer = append(all, authorizer), authorizer
	}
	return httpcache.AnyOf(all...), closer, nil
}

func union(scopes []httpcache.Scope) (all httpcache.Scope) {
	for _, s := range scopes {
		all |= s
	}
	return all
}

// checkAccess refuses settings about who may do what that contradict each other.
func (c *Config) checkAccess() error {
	switch {
	case len(c.ClientCert) > 0 && c.ClientCA == "":
		return usageError{hint(errors.New("client-cert without client-ca"), "name the authority's file with client-ca")}
	case c.ClientCA != "" && c.TLSCert == "" && len(c.ACMEDomain) == 0:
		return usageError{hint(errors.New("client-ca without TLS"), "add tls-cert and tls-key, or acme-domain")}
	}
	seen := map[string]bool{"": true}
	for _, cache := range c.Cache {
		if seen[cache.Name] {
			return usageError{fmt.Errorf("cache: no name, or two caches named %q", cache.Name)}
		}
		seen[cache.Name] = true
		if _, err := publicKeys("upload-key", cache.UploadKey); err != nil {
			return err
		}
	}
	return nil
}
