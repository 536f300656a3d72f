package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Token is a credential as the server keeps it: without its secret.
type Token struct {
	ID      string
	Hash    [sha256.Size]byte // of the secret, which must be a random one of 128 bits or more
	Name    string
	Caches  []string // whose it is; their meaning, and that of none, is the caller's
	Scopes  []string
	Created time.Time // set by the catalog
	Expires time.Time // zero: never
	Revoked time.Time // zero: it was not
}

// String leaves the hash out.
func (t Token) String() string { return fmt.Sprintf("token %s (%q)", t.ID, t.Name) }

// AddToken adds a token. An id or hash that is there already is an error.
func (c *Catalog) AddToken(ctx context.Context, token Token) error {
	return c.do(ctx, writing, func(t *tx) error {
		_, err := t.exec(`INSERT INTO tokens (id, hash, name, caches, scopes, created, expires, revoked)
			VALUES ($1, $2, $3, $4, $5, $6, $7, 0)`, token.ID, hex.EncodeToString(token.Hash[:]), token.Name,
			asJSON(token.Caches), asJSON(token.Scopes), t.now, milliseconds(token.Expires))
		return err
	})
}

// Token returns the token with that id, revoked and expired ones included. One that is not known is ErrNotFound.
func (c *Catalog) Token(ctx context.Context, id string) (*Token, error) {
	found, err := c.tokens(ctx, ` WHERE id = $1`, id)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: token %q", ErrNotFound, id)
	}
	return &found[0], nil
}

// Tokens returns all tokens, revoked and expired ones too, the oldest first.
func (c *Catalog) Tokens(ctx context.Context) ([]Token, error) {
	return c.tokens(ctx, ` ORDER BY created, id`)
}

// RevokeToken revokes a token for good. An id that isn't known is ErrNotFound; one that is revoked stays as it is.
func (c *Catalog) RevokeToken(ctx context.Context, id string) error {
	return c.do(ctx, writing, func(t *tx) error {
		n, err := t.exec(`UPDATE tokens SET revoked = CASE WHEN revoked = 0 THEN $2 ELSE revoked END WHERE id = $1`, id, t.now)
		if err == nil && n == 0 {
			err = fmt.Errorf("%w: token %q", ErrNotFound, id)
		}
		return err
	})
}

func (c *Catalog) tokens(ctx context.Context, condition string, args ...any) ([]Token, error) {
	var tokens []Token
	err := c.do(ctx, reading, func(t *tx) error {
		tokens = nil
		var id, hash, name, caches, scopes string
		var created, expires, revoked int64
		return t.each(`SELECT id, hash, name, caches, scopes, created, expires, revoked FROM tokens`+condition, args,
			[]any{&id, &hash, &name, &caches, &scopes, &created, &expires, &revoked}, func() error {
				token := Token{ID: id, Name: name, Created: fromMilliseconds(created), Expires: fromMilliseconds(expires),
					Revoked: fromMilliseconds(revoked)}
				if n, err := hex.Decode(token.Hash[:], []byte(hash)); err != nil || n != sha256.Size {
					return &DatabaseError{fmt.Errorf("a damaged hash of token %q", id)}
				}
				if err := json.Unmarshal([]byte(caches), &token.Caches); err != nil {
					return &DatabaseError{fmt.Errorf("damaged caches of token %q: %w", id, err)}
				}
				if err := json.Unmarshal([]byte(scopes), &token.Scopes); err != nil {
					return &DatabaseError{fmt.Errorf("damaged scopes of token %q: %w", id, err)}
				}
				tokens = append(tokens, token)
				return nil
			})
	})
	return tokens, err
}
