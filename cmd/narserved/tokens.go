package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/token"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// tokenKeeper keeps the records of tokens: a file, or a catalog.
type tokenKeeper interface {
	token.Store
	List(ctx context.Context) ([]*token.Record, error)
	Add(ctx context.Context, record *token.Record) error
	Revoke(ctx context.Context, id string, at time.Time) error
}

// openTokens opens where the tokens are, which the caller closes.
//
// With a catalog in PostgreSQL that is the catalog: it is what several servers have in common, so that a token is made
// and revoked once. With one in a file it is the tokens file. Both would be on this machine alone; and tokens are for
// servers without uploads, too, which have no catalog, and they outlive it: a lost catalog is made anew from its bucket, but
// nobody could make the tokens anew. So nothing has to be moved when uploads are switched on.
//
// A tokens file that is there beside a catalog in PostgreSQL is from before: its tokens go on to work and can be revoked.
func (c *Config) openTokens(ctx context.Context, log *slog.Logger) (tokenKeeper, io.Closer, error) {
	if !isPostgreSQL(c.Catalog) {
		if c.TokenFile == "" {
			return nil, nil, hint(errors.New("token: there is no state folder to keep tokens in"),
				"name a file with --token-file FILE, or a folder with --state-dir")
		}
		return &token.FileStore{Path: c.TokenFile}, io.NopCloser(nil), nil
	}
	known, closer, err := openCatalog(ctx, c.Catalog, log)
	if err != nil {
		return nil, nil, err
	}
	return c.sharedTokens(known), closer, nil
}

// sharedTokens are the tokens in a catalog.
func (c *Config) sharedTokens(known *catalog.Catalog) *sharedTokens {
	s := &sharedTokens{catalog: known}
	if c.TokenFile != "" {
		s.before = &token.FileStore{Path: c.TokenFile}
	}
	return s
}

// tokenPlace is where the tokens are, for people. A catalog's URL may have a password.
func (c *Config) tokenPlace() string {
	if isPostgreSQL(c.Catalog) {
		return "the catalog"
	}
	return c.TokenFile
}

// tokenAdvice says what to do about tokens that cannot be read or written.
func (c *Config) tokenAdvice(err error) string {
	if _, ok := errors.AsType[*catalog.DatabaseError](err); ok {
		return "see that the database which --catalog names can be reached"
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("run this as root, or as the user to whom %s belongs", filepath.Dir(c.TokenFile))
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("the folder must exist: mkdir -p %s", filepath.Dir(c.TokenFile))
	}
	return "name another file with --token-file"
}

// tokenBudget is how long a request waits for the catalog to tell who sends it.
const tokenBudget = 5 * time.Second

// sharedTokens are tokens in the catalog of several servers. It is safe for concurrent use.
type sharedTokens struct {
	catalog *catalog.Catalog
	before  *token.FileStore // which is not added to; nil: there is none
}

var _ tokenKeeper = (*sharedTokens)(nil)

// Token implements [token.Store].
func (s *sharedTokens) Token(ctx context.Context, id string) (*token.Record, error) {
	within, cancel := context.WithTimeout(ctx, tokenBudget)
	defer cancel()
	found, err := s.catalog.Token(within, id)
	if errors.Is(err, catalog.ErrNotFound) {
		return s.fromBefore(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	return recordOf(found)
}

func (s *sharedTokens) fromBefore(ctx context.Context, id string) (*token.Record, error) {
	if s.before == nil {
		return nil, fmt.Errorf("token: %q: %w", id, store.ErrNotFound)
	}
	return s.before.Token(ctx, id)
}

// recordOf is a token as it is in a catalog.
func recordOf(t *catalog.Token) (*token.Record, error) {
	scopes, err := httpcache.ParseScope(strings.Join(t.Scopes, ","))
	if err != nil {
		return nil, fmt.Errorf("token: %q: %w", t.ID, err)
	}
	return &token.Record{ID: t.ID, Hash: t.Hash, Name: t.Name, Scopes: scopes, Caches: t.Caches, Created: t.Created,
		Expires: t.Expires, Revoked: t.Revoked}, nil
}

// List returns all records, the oldest first, those of the file behind the others.
func (s *sharedTokens) List(ctx context.Context) ([]*token.Record, error) {
	found, err := s.catalog.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	var all []*token.Record
	for _, t := range found {
		record, err := recordOf(&t)
		if err != nil {
			return nil, err
		}
		all = append(all, record)
	}
	if s.before == nil {
		return all, nil
	}
	old, err := s.before.List(ctx)
	return append(all, old...), err
}

// Add stores a new record in the catalog, which says when it was made.
func (s *sharedTokens) Add(ctx context.Context, r *token.Record) error {
	caches := r.Caches
	if caches == nil {
		caches = []string{httpcache.AllCaches} // the catalog does not tell nil from none
	}
	return s.catalog.AddToken(ctx, catalog.Token{ID: r.ID, Hash: r.Hash, Name: r.Name, Caches: caches, Scopes: r.Scopes.Names(),
		Expires: r.Expires})
}

// Revoke marks the token as revoked, in the catalog by its own clock. If there is none of that ID the error is
// [store.ErrNotFound].
func (s *sharedTokens) Revoke(ctx context.Context, id string, at time.Time) error {
	err := s.catalog.RevokeToken(ctx, id)
	if !errors.Is(err, catalog.ErrNotFound) {
		return err
	}
	if _, err := s.fromBefore(ctx, id); err != nil {
		return err
	}
	return s.before.Revoke(ctx, id, at)
}
