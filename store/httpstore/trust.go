package httpstore

import (
	"slices"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// trusted reports whether a path may be believed in: see the package comment.
func (s *Store) trusted(info *narinfo.Info) bool {
	if s.opts.InsecureIgnoreSignatures {
		return true
	}
	if _, ok := info.VerifiedBy(s.opts.TrustedKeys); ok {
		return true
	}
	return provesItself(info)
}

// provesItself reports whether the path follows from NarHash, References and its name. A path that refers to itself has
// another hash in its content address than its NAR's.
func provesItself(info *narinfo.Info) bool {
	if !strings.HasPrefix(string(info.CA), "fixed:r:sha256:") || info.CA.Hash() != info.NarHash {
		return false
	}
	path, err := info.ContentPath()
	return err == nil && path == info.StorePath && !slices.Contains(info.References, info.StorePath)
}
