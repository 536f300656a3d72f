package main

import (
	"context"
	"fmt"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// rootsAge is how long the closure of the roots is remembered: a profile that was switched is served this much later.
const rootsAge = time.Minute

// policy is what the configuration limits serving to, nil if it does not.
func (c *Config) policy(s *source) (httpcache.Policy, error) {
	ring, err := publicKeys(c.TrustedKey)
	if err != nil {
		return nil, err
	}
	var policies allOf
	if len(ring) > 0 {
		policies = append(policies, httpcache.SignedBy(ring))
	}
	if len(c.Roots) > 0 {
		roots := func(context.Context) ([]narinfo.StorePath, error) { return s.roots(c.Roots) }
		if _, err := roots(context.Background()); err != nil {
			return nil, hint(err, "a root is a store path or a symlink to one, as /nix/var/nix/profiles/system")
		}
		policies = append(policies, httpcache.ClosureOf(s.Store, roots, rootsAge))
	}
	if len(policies) == 0 {
		return nil, nil
	}
	return policies, nil
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
