package httpstore

import (
	"crypto/sha256"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"

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

// provesItself reports whether the path follows from NarHash, References and its name.
// It is Nix's rule for "fixed:r:sha256": HASHPART is base 32 of 20 bytes, onto which the SHA-256 of
// "source:REF…:sha256:HEX:STOREDIR:NAME" is folded. HEX is of the NAR, if the path does not refer to itself.
func provesItself(info *narinfo.Info) bool {
	if !strings.HasPrefix(string(info.CA), "fixed:r:sha256:") || info.CA.Hash() != info.NarHash {
		return false
	}
	var b strings.Builder
	b.WriteString("source")
	for _, r := range info.References {
		if r == info.StorePath {
			return false
		}
		b.WriteString(":" + string(r))
	}
	b.WriteString(":sha256:" + info.NarHash.Base16() + ":" + info.StorePath.Dir() + ":" + info.StorePath.Name())
	sum := sha256.Sum256([]byte(b.String()))
	var folded [20]byte
	for n, c := range sum {
		folded[n%len(folded)] ^= c
	}
	return nixbase32.EncodeToString(folded[:]) == string(info.StorePath.HashPart())
}
