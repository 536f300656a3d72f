package bucketstore

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// plainKeys are the keys of files that are handed out as they are, besides archives.
// Names in them are those of store paths, hash parts too.
var plainKeys = regexp.MustCompile(`^(` + strings.Join([]string{
	hashPartPattern + `\.(narinfo|ls)`,
	`log/` + hashPartPattern + `-` + namePattern + `\.drv`,
	`realisations/sha256:[0-9a-f]{64}!` + namePattern + `\.doi`,
	`build-trace-v2/` + hashPartPattern + `-` + namePattern + `\.drv/` + namePattern + `\.doi`,
	`debuginfo/[0-9a-f]{4,64}(\.debug)?`,
}, `|`) + `)$`)

const (
	hashPartPattern = `[0-9a-df-np-sv-z]{32}`
	namePattern     = `[0-9a-zA-Z+\-._?=]{1,211}`
)

// archiveKey is the key of an archive that names its own hash.
var archiveKey = regexp.MustCompile(`^nar/([0-9a-df-np-sv-z]{52})\.nar(\.[0-9a-z]{1,8})?$`)

// OpenFile returns a file of the layout above as it is. A key of no such form is not found, nix-cache-info too.
// Files below nar/ are proved to have the hash in their name; the others are whatever somebody wrote there.
func (s *Store) OpenFile(ctx context.Context, key string) (*store.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m := archiveKey.FindStringSubmatch(key); m != nil {
		hash, err := narinfo.ParseDigest(narinfo.SHA256, m[1])
		if err != nil {
			return nil, notFound(key)
		}
		switch held, err := s.holds(ctx, key); {
		case err != nil:
			return nil, err
		case !held:
			return nil, notFound(key)
		}
		return s.openNamed(ctx, key, hash)
	}
	if !plainKeys.MatchString(key) {
		return nil, notFound(key)
	}
	a, err := s.openKey(ctx, s.key(key))
	if err != nil {
		return nil, err
	}
	return &store.File{ReadSeekCloser: a, Size: a.state.Size, ModTime: a.state.Modified}, nil
}

// openNamed opens a file whose name is its proof.
func (s *Store) openNamed(ctx context.Context, key string, hash narinfo.Hash) (*store.File, error) {
	a, err := s.openKey(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := s.proveOnce(a, hash, func() error { return s.hashFile(ctx, a, hash) }); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return s.proved(ctx, a), nil
}

// narinfoKey takes "HASHPART.narinfo" apart.
func narinfoKey(key string) (hash narinfo.HashPart, ok bool) {
	stem, ok := strings.CutSuffix(key, ".narinfo")
	if !ok {
		return "", false
	}
	hash, err := narinfo.ParseHashPart(stem)
	return hash, err == nil
}
