package httpcache

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Scope is what an identity may do: a set. Its text is the members' names, "read,push".
// No scope includes another, but for this: a stock Nix looks at a cache before it uploads, so who may push to a private
// cache may read it.
type Scope uint8

// The members of a Scope.
const (
	ScopeRead  Scope = 1 << iota // fetch from a private cache
	ScopePush                    // upload
	ScopeAdmin                   // delete, pin, collect garbage
)

// scopeNames are in the order of the bits.
var scopeNames = [...]string{"read", "push", "admin"}

// ParseScope reads names that are separated by commas, in any order, as "read,push". An empty set has no text.
func ParseScope(text string) (Scope, error) {
	var s Scope
	for name := range strings.SplitSeq(text, ",") {
		i := slices.Index(scopeNames[:], name)
		if i < 0 {
			return 0, fmt.Errorf("httpcache: scope %q is none of %s", name, strings.Join(scopeNames[:], ", "))
		}
		s |= 1 << i
	}
	return s, nil
}

// Names returns the members' names in the order read, push, admin.
func (s Scope) Names() []string {
	names := []string{}
	for i, name := range scopeNames {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// String returns the names, separated by commas.
func (s Scope) String() string { return strings.Join(s.Names(), ",") }

// MarshalText returns what String does, and an error for a set with members that have no name.
func (s Scope) MarshalText() ([]byte, error) {
	if s>>len(scopeNames) != 0 {
		return nil, fmt.Errorf("httpcache: scope %#x has unknown members", uint8(s))
	}
	return []byte(s.String()), nil
}

// UnmarshalText is [ParseScope], except that no text is the empty set.
func (s *Scope) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*s = 0
		return nil
	}
	parsed, err := ParseScope(string(text))
	if err == nil {
		*s = parsed
	}
	return err
}

// AllCaches stands in [Identity.Caches] for every cache.
const AllCaches = "*"

// Identity is who sends a request. It is not changed once an [Authorizer] has returned it.
type Identity struct {
	// Name is for logs and for the catalog's record of who uploaded what. It is no secret.
	Name string

	// Scopes are what it may do.
	Scopes Scope

	// Caches are the names of the caches where it may do so, "" being the one at the server's root.
	// nil, or a list with [AllCaches]: every cache. An empty list that is not nil: none.
	Caches []string
}

// Allows reports whether the identity may do all that scope has, in the cache of that name.
// Nobody, a nil Identity, may do nothing; and nothing, an empty scope, is not allowed to anybody.
func (i *Identity) Allows(scope Scope, cache string) bool {
	if i == nil || scope == 0 || i.Scopes&scope != scope {
		return false
	}
	return i.Caches == nil || slices.Contains(i.Caches, cache) || slices.Contains(i.Caches, AllCaches)
}

var (
	// ErrNoCredential reports that a request carries no credential of the kind that an [Authorizer] understands.
	ErrNoCredential = errors.New("httpcache: no credential")
	// ErrBadCredential reports a credential that is forged, expired, revoked or malformed. What is added to its text
	// is for the log, never for the client.
	ErrBadCredential = errors.New("httpcache: bad credential")
)

// Authorizer finds out who sends a request. It is safe for concurrent use.
type Authorizer interface {
	// Authorize returns who sends the request, by its headers and its connection alone: it leaves the body unread.
	//
	// The error is [ErrNoCredential] if there is no credential of its kind, [ErrBadCredential] if there is one that
	// proves nothing, and another error if it could not tell, which is a fault of ours and never means that the
	// credential is bad. No error holds a secret.
	Authorize(r *http.Request) (*Identity, error)
}

// AnyOf asks each authorizer in turn. The first that knows the request's kind of credential decides, also if it finds
// the credential bad or cannot tell; without any, the request has no credential.
func AnyOf(authorizers ...Authorizer) Authorizer { return anyOf(slices.Clone(authorizers)) }

type anyOf []Authorizer

func (a anyOf) Authorize(r *http.Request) (*Identity, error) {
	for _, authorizer := range a {
		identity, err := authorizer.Authorize(r)
		if !errors.Is(err, ErrNoCredential) {
			return identity, err
		}
	}
	return nil, ErrNoCredential
}

// maxCredential is the longest credential that is looked at, in bytes. ID tokens have one or two thousand.
const maxCredential = 16 << 10

// Credential returns the secret that a request carries in its Authorization header: a Bearer token, or the password
// of Basic, where a netrc file has the token. The login beside the password is ignored.
//
// A user or a password in the request's URL is never looked at, for URLs get into logs.
// Without the header, with another scheme or with an empty password the error is [ErrNoCredential]. With two headers,
// or what is malformed or longer than 16 KiB, it is [ErrBadCredential].
// A password may be any text: whether it is a token at all is for an [Authorizer] to say.
func Credential(r *http.Request) (string, error) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return "", ErrNoCredential
	}
	if len(headers) > 1 {
		// A proxy in front might have looked at the other one.
		return "", fmt.Errorf("%w: two Authorization headers", ErrBadCredential)
	}
	scheme, secret, _ := strings.Cut(strings.TrimSpace(headers[0]), " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		if secret = strings.TrimSpace(secret); !isToken(secret) {
			return "", fmt.Errorf("%w: malformed Bearer authorization", ErrBadCredential)
		}
	case strings.EqualFold(scheme, "Basic"):
		var ok bool
		if _, secret, ok = r.BasicAuth(); !ok {
			return "", fmt.Errorf("%w: malformed Basic authorization", ErrBadCredential)
		}
	default:
		return "", ErrNoCredential
	}
	if secret == "" {
		return "", ErrNoCredential
	}
	if len(secret) > maxCredential {
		return "", fmt.Errorf("%w: %d bytes are longer than any token", ErrBadCredential, len(secret))
	}
	return secret, nil
}

// isToken reports whether the text is RFC 6750's b64token, and not empty.
func isToken(text string) bool {
	for i := range len(text) {
		c := text[i]
		alphanumeric := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alphanumeric && !strings.ContainsRune("-._~+/=", rune(c)) {
			return false
		}
	}
	return text != ""
}
