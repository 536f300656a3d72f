package narinfo

import (
	"errors"
	"fmt"
	"strings"
)

// ContentAddress says how a path's content determines the path. "" is none.
//
//	text:sha256:BASE32         a text file with references, as derivations are
//	fixed:sha256:BASE32        a file, hashed flat; any hash type
//	fixed:r:sha256:BASE32      anything, hashed as NAR; any hash type
//	fixed:git:sha1:BASE32      anything, hashed as Git does (experimental in Nix)
//
// It is in canonical form by construction: see [ParseContentAddress].
type ContentAddress string

var errContentAddress = errors.New("neither text:TYPE:DIGEST nor fixed:[r:|git:]TYPE:DIGEST")

// ParseContentAddress reads a content address and returns it in canonical form, the digest in base 32.
// Like Nix it also reads digests in base 16 and base 64. "" is an error.
func ParseContentAddress(s string) (ContentAddress, error) {
	method, digest, err := splitContentAddress(s)
	if err == nil {
		var h Hash
		if h, err = parseHash(digest); err == nil {
			return canonicalContentAddress(s, method, h), nil
		}
	}
	return "", fmt.Errorf("narinfo: content address %q: %w", clip(s), err)
}

func splitContentAddress(s string) (method, digest string, err error) {
	for _, method := range []string{"text:", "fixed:r:", "fixed:git:", "fixed:"} {
		if digest, ok := strings.CutPrefix(s, method); ok && strings.Contains(digest, ":") {
			return method, digest, nil
		}
	}
	return "", "", errContentAddress
}

// canonicalContentAddress returns s itself where it is canonical already, which spares an allocation.
func canonicalContentAddress(s, method string, h Hash) ContentAddress {
	var buf [len("fixed:git:") + maxHashText]byte
	b := h.appendText(append(buf[:0], method...))
	if string(b) == s {
		return ContentAddress(s)
	}
	return ContentAddress(b)
}

// Hash returns the hash in the content address; zero for "".
func (a ContentAddress) Hash() Hash {
	_, digest, err := splitContentAddress(string(a))
	if err != nil {
		return Hash{}
	}
	h, err := parseHash(digest)
	if err != nil {
		return Hash{}
	}
	return h
}
