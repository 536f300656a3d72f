package token

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
)

const (
	prefix      = "nixtrap_"
	idBytes     = 10 // 80 bits: two are never alike
	secretBytes = 32
	minID       = 10
	maxID       = 32

	idAlphabet = "abcdefghijklmnopqrstuvwxyz234567"
)

var (
	idText     = base32.NewEncoding(idAlphabet).WithPadding(base32.NoPadding)
	secretText = base64.RawURLEncoding.Strict()
)

// Token is a token with its secret, which [Token.Text] alone shows: no verb of fmt, log or JSON does.
// The zero value is no token. A Token does not change.
type Token struct {
	id string
	// A function, so that no verb of fmt shows more than an address even below an unexported field.
	secret func() [secretBytes]byte
}

// GenerateToken makes a token from 42 bytes of random, nil meaning the system's randomness, and its record, which has
// all but a name, scopes and caches: those are the caller's to fill in before it is stored.
func GenerateToken(random io.Reader) (*Token, *Record, error) {
	if random == nil {
		random = rand.Reader
	}
	var b [idBytes + secretBytes]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, nil, fmt.Errorf("token: %w", err)
	}
	t := newToken(idText.EncodeToString(b[:idBytes]), [secretBytes]byte(b[idBytes:]))
	return t, &Record{ID: t.id, Hash: t.Hash(), Created: time.Now().UTC().Truncate(time.Second)}, nil
}

func newToken(id string, secret [secretBytes]byte) *Token {
	return &Token{id: id, secret: func() [secretBytes]byte { return secret }}
}

// errNotOurs is a text that is not meant as one of our tokens.
var errNotOurs = errors.New("it does not begin with " + prefix)

// ParseToken reads a token's text. No error holds a part of it.
func ParseToken(text string) (*Token, error) {
	t, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("token: malformed: %w", err)
	}
	return t, nil
}

func parse(text string) (*Token, error) {
	rest, ok := strings.CutPrefix(text, prefix)
	if !ok {
		return nil, errNotOurs
	}
	id, secret, _ := strings.Cut(rest, "_") // no ID has one, a secret may
	if !validID(id) {
		return nil, errors.New("its ID is not 10 to 32 of a-z and 2-7")
	}
	var b [secretBytes]byte
	if len(secret) != secretText.EncodedLen(secretBytes) {
		return nil, errors.New("its secret has another length")
	}
	// The decoder skips line ends, so that a text of the right length may hold fewer bytes.
	if n, err := secretText.Decode(b[:], []byte(secret)); err != nil || n != secretBytes {
		return nil, errors.New("its secret is not base64url")
	}
	return newToken(id, b), nil
}

func validID(id string) bool {
	return minID <= len(id) && len(id) <= maxID && strings.Trim(id, idAlphabet) == ""
}

// ID returns the public half.
func (t *Token) ID() string { return t.id }

// Hash returns the SHA-256 of the secret's 32 bytes.
func (t *Token) Hash() [sha256.Size]byte {
	secret := t.secret()
	return sha256.Sum256(secret[:])
}

// Text returns the token's text with its secret, which [ParseToken] reads.
func (t *Token) Text() string {
	secret := t.secret()
	return prefix + t.id + "_" + secretText.EncodeToString(secret[:])
}

// String returns the ID and says that the secret is withheld.
func (t Token) String() string { return prefix + t.id + "_(secret)" }

// GoString is String.
func (t Token) GoString() string { return t.String() }

// Format prints String for every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue logs String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText returns String, so that JSON holds no secret either.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Record is what a [Store] keeps of a token.
type Record struct {
	ID string // of the token's text

	// Hash is the SHA-256 of the secret's 32 bytes.
	Hash [sha256.Size]byte

	Name   string          // of the identity, for logs and the catalog; never empty in a FileStore
	Scopes httpcache.Scope // what it may do

	// Caches are where it may do so, as in [httpcache.Identity]: nil means every cache, an empty list none.
	// A store keeps the two apart.
	Caches []string

	Created time.Time
	Expires time.Time // zero: never
	Revoked time.Time // zero: it is not. Any other time, also one to come: it is
}

// State is whether a token can be used.
type State string

// The states of a token.
const (
	Active  State = "active"
	Expired State = "expired"
	Revoked State = "revoked" // also if it would be expired, too
)

// State returns what the token is at that time.
func (r *Record) State(at time.Time) State {
	switch {
	case !r.Revoked.IsZero():
		return Revoked
	case !r.Expires.IsZero() && !at.Before(r.Expires):
		return Expired
	}
	return Active
}

// String returns the ID and the name. The hash, though no secret, is no use to a reader of logs.
func (r Record) String() string { return fmt.Sprintf("%s (%s)", r.ID, r.Name) }

// GoString is String.
func (r Record) GoString() string { return r.String() }

// LogValue logs the ID and the name.
func (r Record) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", r.ID), slog.String("name", r.Name))
}
