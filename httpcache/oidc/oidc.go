package oidc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/internal/background"
)

// Leeway is how far the clocks of an issuer and of this machine may be apart.
const Leeway = time.Minute

// algorithms are all asymmetric.
var algorithms = []string{
	goidc.RS256, goidc.RS384, goidc.RS512, goidc.PS256, goidc.PS384, goidc.PS512,
	goidc.ES256, goidc.ES384, goidc.ES512, goidc.EdDSA,
}

// Issuer says which tokens of an issuer stand for whom. There may be several for one URL, which then share its keys;
// the first that a token fits decides.
type Issuer struct {
	// URL is the issuer's, as in its tokens' iss: https, and without or with a slash at the end as the issuer has it.
	// GitHub Actions: "https://token.actions.githubusercontent.com"; GitLab CI: "https://gitlab.com".
	URL string

	// Audience is what the token must be meant for, such as this cache's URL. Never empty: a token that was given to
	// another service would do otherwise.
	Audience string

	// Claims are the bound claims: by a claim's name the patterns of which one must fit. All must hold. Never empty.
	Claims map[string][]string

	Scopes httpcache.Scope // never empty
	Caches []string        // as in [httpcache.Identity]

	// Name is the identity's, with claims in braces: "{repository}@{ref}". Characters that cannot be printed become "?".
	// A token that lacks such a claim is bad. "": "{sub}".
	Name string
}

// Options are the settings of an [Authorizer]. The zero value, like nil, is a sensible default.
type Options struct {
	// Transport reaches the issuers. nil: [http.DefaultTransport].
	Transport http.RoundTripper

	// Logger is told, at Warn, when an issuer's keys could not be fetched. nil: nothing is logged.
	Logger *slog.Logger
}

// Authorizer knows the senders of requests by ID tokens. It is safe for concurrent use.
type Authorizer struct {
	issuers map[string]*issuer // by URL
	work    *background.Work
}

// issuer is what is known of one URL.
type issuer struct {
	url   string
	rules []*rule
	keys  *keySource
}

var _ httpcache.Authorizer = (*Authorizer)(nil)

// New returns an Authorizer for the issuers, which are copied. It asks none of them yet.
// It must be closed once a request has been authorized.
func New(issuers []Issuer, opts *Options) (*Authorizer, error) {
	if len(issuers) == 0 {
		return nil, errors.New("oidc: there is no issuer")
	}
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Transport == nil {
		o.Transport = http.DefaultTransport
	}
	client := newClient(o.Transport)
	a := &Authorizer{issuers: make(map[string]*issuer), work: background.New()}
	for i := range issuers {
		r, err := newRule(&issuers[i])
		if err != nil {
			return nil, fmt.Errorf("oidc: issuer %d, %q: %w", i+1, issuers[i].URL, err)
		}
		u := issuers[i].URL
		if a.issuers[u] == nil {
			a.issuers[u] = &issuer{url: u, keys: &keySource{issuer: u, client: client, log: o.Logger, work: a.work}}
		}
		a.issuers[u].rules = append(a.issuers[u].rules, r)
	}
	return a, nil
}

// Close ends what is being fetched and waits for it. Its error is always nil; a second Close does nothing.
func (a *Authorizer) Close() error {
	a.work.Stop()
	return nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("its URL is not https://HOST[/PATH]")
	}
	return nil
}

// Authorize implements [httpcache.Authorizer]. A JWT of an issuer that is not configured is a bad credential; what is
// no JWT is none of its kind. It waits for an issuer for 5 s at most, or until the request's context ends.
func (a *Authorizer) Authorize(r *http.Request) (*httpcache.Identity, error) {
	text, err := httpcache.Credential(r)
	if err != nil {
		return nil, err
	}
	header, payload, ok := split(text)
	if !ok {
		return nil, httpcache.ErrNoCredential
	}
	i, err := a.issuerOf(header, payload)
	if err != nil {
		return nil, fmt.Errorf("%w: ID token: %w", httpcache.ErrBadCredential, err)
	}
	keys, err := i.keys.find(r.Context(), header.KeyID, header.Algorithm)
	if err != nil {
		return nil, err
	}
	claims, err := i.verify(r.Context(), text, keys)
	if err == nil {
		err = claims.checkTimes(time.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: ID token of %q: %w", httpcache.ErrBadCredential, i.url, err)
	}
	var reasons []error
	for _, rule := range i.rules {
		identity, err := rule.identify(claims)
		if err == nil {
			return identity, nil
		}
		reasons = append(reasons, err)
	}
	return nil, fmt.Errorf("%w: ID token of %q: %w", httpcache.ErrBadCredential, i.url, errors.Join(reasons...))
}

// jwtHeader is what is read of a token's header before its signature is checked.
type jwtHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ"`
}

// split takes a JWT in compact form apart, without proof of anything. It reports false for what is none.
func split(text string) (header jwtHeader, payload []byte, ok bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return header, nil, false
	}
	head, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil || json.Unmarshal(head, &header) != nil || header.Algorithm == "" {
		return header, nil, false
	}
	payload, err = base64.RawURLEncoding.DecodeString(parts[1])
	return header, payload, err == nil
}

// issuerOf finds the issuer that the token claims to be of.
func (a *Authorizer) issuerOf(header jwtHeader, payload []byte) (*issuer, error) {
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, errors.New("its claims are no JSON object")
	}
	if header.Type != "" && !strings.EqualFold(header.Type, "JWT") {
		return nil, fmt.Errorf("it is a token of type %q", shorten(header.Type))
	}
	if !slices.Contains(algorithms, header.Algorithm) {
		return nil, fmt.Errorf("it is signed by %q", shorten(header.Algorithm))
	}
	iss, _ := c.text("iss")
	i := a.issuers[iss]
	if i == nil {
		return nil, fmt.Errorf("no issuer %q is configured", shorten(iss))
	}
	return i, nil
}

// verify returns the claims of a token whose signature is by one of the keys.
func (i *issuer) verify(ctx context.Context, text string, keys []key) (claims, error) {
	var set goidc.StaticKeySet
	for _, k := range keys {
		set.PublicKeys = append(set.PublicKeys, k.public)
	}
	// The audience is each rule's own, and times are checked with a leeway that go-oidc does not have.
	config := &goidc.Config{SupportedSigningAlgs: algorithms, SkipClientIDCheck: true, SkipExpiryCheck: true}
	token, err := goidc.NewVerifier(i.url, &set, config).Verify(ctx, text)
	if err != nil {
		return nil, err
	}
	var c claims
	err = token.Claims(&c)
	return c, err
}
