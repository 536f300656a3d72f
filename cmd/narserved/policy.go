package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// rootsAge is how long the closure of the roots is remembered: a profile that was switched is served this much later.
const rootsAge = time.Minute

// policy is what the configuration limits serving to, nil if it does not.
func (c *Config) policy(s *source, served store.Store, log *slog.Logger) (httpcache.Policy, error) {
	ring, err := publicKeys("trusted-key", c.TrustedKey)
	if err != nil {
		return nil, err
	}
	var policies allOf
	if len(ring) > 0 {
		policies = append(policies, httpcache.SignedBy(ring))
	}
	if len(c.Roots) > 0 {
		roots := func(context.Context) ([]narinfo.StorePath, error) { return s.roots(c.Roots) }
		paths, err := roots(context.Background())
		if err != nil {
			return nil, hint(err, "a root is a store path or a symlink to one, as /nix/var/nix/profiles/system")
		}
		warnOfAbsent(log, served, paths)
		policies = append(policies, httpcache.ClosureOf(served, roots, rootsAge))
	}
	if len(policies) == 0 {
		return nil, nil
	}
	return policies, nil
}

// warnOfAbsent tells of roots that the store does not hold, which may come to be there later: until then nothing of
// theirs is served.
func warnOfAbsent(log *slog.Logger, s store.Store, roots []narinfo.StorePath) {
	for _, root := range roots {
		if _, err := store.Lookup(context.Background(), s, root); errors.Is(err, store.ErrNotFound) {
			log.Warn("a root is not in the store: nothing of its closure is served", "root", root)
		}
	}
}

// roots follows the configured symlinks anew.
func (s *source) roots(files []string) (paths []narinfo.StorePath, err error) {
	for _, file := range files {
		path, err := s.storePath(file)
		if err != nil {
			return nil, fmt.Errorf("roots: %q: %w", file, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// allOf allows what each of its policies allows.
type allOf []httpcache.Policy

func (all allOf) Allows(ctx context.Context, info *narinfo.Info) (bool, error) {
	for _, policy := range all {
		if ok, err := policy.Allows(ctx, info); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}
