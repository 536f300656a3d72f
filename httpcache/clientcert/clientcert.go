// Package clientcert knows the senders of requests by the certificates that they present in TLS.
//
// Most callers want [New], with one [Rule] for each kind of sender, and a server whose [tls.Config] has ClientCAs and
// [tls.VerifyClientCertIfGiven], so that clients without a certificate still reach what is public.
//
// A certificate counts only if the server's TLS has verified it: it is the leaf of [tls.ConnectionState.VerifiedChains].
// One that was presented and not verified, as under [tls.RequestClientCert] or [tls.RequireAnyClientCert], is none,
// and no header is looked at: behind a proxy that ends TLS this package finds nobody.
//
// Lists of revoked certificates are not looked at: let certificates live shortly, or take the rule away.
//
// # Patterns
//
// A rule is about the subject's common name and the names in the subject's alternatives, each kind by itself, so that
// an authority that lets anybody choose a common name gives away no host's rights. In a pattern a star stands for any run of
// characters, dots and slashes included; everything else stands for itself, and the whole name must match.
// Host names and the hosts of addresses are compared in any case, everything else as it is.
package clientcert

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/internal/glob"
)

// Rule says who a certificate stands for. At least one pattern is set, and all that are set must match.
type Rule struct {
	CommonName string // of the subject. "": any, also none
	DNSName    string // one of the alternatives, as "ci-*.example.org". "": any, also none
	URI        string // one of the alternatives, as "spiffe://example.org/builder/*". "": any, also none
	Email      string // one of the alternatives, as "*@example.org". "": any, also none

	// Name is the identity's. "": the name that matched the first pattern that is set.
	Name string

	Scopes httpcache.Scope // never empty
	Caches []string        // as in [httpcache.Identity]
}

// Authorizer finds the first rule that a certificate fits. It is safe for concurrent use.
type Authorizer struct {
	rules []Rule
}

var _ httpcache.Authorizer = (*Authorizer)(nil)

// New returns an Authorizer with the rules, which are copied. A rule without a pattern or a scope is an error.
func New(rules []Rule) (*Authorizer, error) {
	if len(rules) == 0 {
		return nil, errors.New("clientcert: there is no rule")
	}
	a := &Authorizer{rules: slices.Clone(rules)}
	for i := range a.rules {
		r := &a.rules[i]
		r.Caches = slices.Clone(r.Caches)
		if r.CommonName+r.DNSName+r.URI+r.Email == "" {
			return nil, fmt.Errorf("clientcert: rule %d has no pattern", i+1)
		}
		if r.Scopes == 0 {
			return nil, fmt.Errorf("clientcert: rule %d has no scope", i+1)
		}
	}
	return a, nil
}

// Authorize implements [httpcache.Authorizer]. A verified certificate that no rule is about is no credential, for
// clients present their certificate to every server that asks: it gives no right, and the request may carry another
// credential. One that has expired since the connection was made is a bad one.
func (a *Authorizer) Authorize(r *http.Request) (*httpcache.Identity, error) {
	leaf := verifiedLeaf(r.TLS)
	if leaf == nil {
		return nil, httpcache.ErrNoCredential
	}
	for i := range a.rules {
		rule := &a.rules[i]
		name, ok := rule.match(leaf)
		if !ok {
			continue
		}
		// TLS looks at the time when a connection begins, and one may go on for days.
		if now := time.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
			return nil, fmt.Errorf("%w: the certificate of %q is valid until %s",
				httpcache.ErrBadCredential, name, leaf.NotAfter.Format(time.RFC3339))
		}
		if rule.Name != "" {
			name = rule.Name
		}
		return &httpcache.Identity{Name: name, Scopes: rule.Scopes, Caches: rule.Caches}, nil
	}
	return nil, httpcache.ErrNoCredential
}

// verifiedLeaf is the client's certificate, nil without one that was verified. All chains begin with it.
func verifiedLeaf(state *tls.ConnectionState) *x509.Certificate {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return nil
	}
	return state.VerifiedChains[0][0]
}

// match reports whether the certificate fits, and the name that matched the first pattern.
func (r *Rule) match(cert *x509.Certificate) (name string, ok bool) {
	var uris, hosts, emails []string
	for _, uri := range cert.URIs {
		uris = append(uris, uri.String())
	}
	for _, host := range cert.DNSNames {
		hosts = append(hosts, strings.ToLower(host))
	}
	for _, email := range cert.EmailAddresses {
		emails = append(emails, lowerHost(email))
	}
	for _, kind := range []struct {
		pattern string
		names   []string
	}{
		{r.CommonName, []string{cert.Subject.CommonName}},
		{strings.ToLower(r.DNSName), hosts},
		{r.URI, uris},
		{lowerHost(r.Email), emails},
	} {
		if kind.pattern == "" {
			continue
		}
		i := slices.IndexFunc(kind.names, func(name string) bool { return name != "" && glob.Match(kind.pattern, name) })
		if i < 0 {
			return "", false
		}
		if name == "" {
			name = kind.names[i]
		}
	}
	return name, true
}

// lowerHost puts the part of a mail address after its last @ into lower case.
func lowerHost(email string) string {
	at := strings.LastIndex(email, "@")
	return email[:at+1] + strings.ToLower(email[at+1:])
}
