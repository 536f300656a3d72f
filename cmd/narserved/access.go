package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/clientcert"
	"github.com/voidnxlab/nixtrap/httpcache/oidc"
	"github.com/voidnxlab/nixtrap/httpcache/token"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
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

// access is everybody who can be known: by tokens, nil if there are none, and otherwise. closer is to be closed at the end.
func (c *Config) access(tokens token.Store, log *slog.Logger) (_ httpcache.Authorizer, closer io.Closer, err error) {
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
	if tokens != nil {
		all = append(all, token.New(tokens, nil))
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
	seen := make(map[string]bool)
	for _, cache := range c.Cache {
		switch {
		case cache.Name == "":
			return usageError{hint(errors.New("cache: one has no name"), `add name = "NAME" to [[cache]]; the cache at the root needs no table`)}
		case !bucketstore.IsCacheName(cache.Name):
			return badCacheName("cache", cache.Name)
		case seen[cache.Name]:
			return usageError{hint(fmt.Errorf("cache: two are named %q", cache.Name), "give one of the [[cache]] another name")}
		}
		seen[cache.Name] = true
		if _, err := publicKeys("upload-key", cache.UploadKey); err != nil {
			return err
		}
	}
	for _, issuer := range c.OIDC {
		if err := c.checkCaches("oidc", issuer.Caches); err != nil {
			return err
		}
	}
	for _, cert := range c.ClientCert {
		if err := c.checkCaches("client-cert", cert.Caches); err != nil {
			return err
		}
	}
	return nil
}

var errNoSuchCache = errors.New("there is no cache named")

// checkCaches refuses names of caches that are not there, for a right in them would be a right in nothing.
func (c *Config) checkCaches(setting string, names []string) error {
	known := []string{"", httpcache.AllCaches}
	there := `"" (at the root), "*" (all of them)`
	for _, cache := range c.Cache {
		known = append(known, cache.Name)
		there += fmt.Sprintf(", %q", cache.Name)
	}
	for _, name := range names {
		switch {
		case slices.Contains(known, name):
		case !bucketstore.IsCacheName(name):
			return badCacheName(setting, name)
		default:
			return usageError{hint(fmt.Errorf("%s: %w %q", setting, errNoSuchCache, name),
				"name one of these, or add a [[cache]] of that name: "+there)}
		}
	}
	return nil
}

func badCacheName(setting, name string) error {
	return usageError{hint(fmt.Errorf("%s: %.300q is no cache's name", setting, name),
		`a name is as in the cache's URL, 1 to 63 lower-case letters, digits and -_. after the first, and none that every cache `+
			`has there, as "nar" or "log"; the one at the root is ""`)}
}
