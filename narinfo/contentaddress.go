package narinfo

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
)

// ContentAddress says how a path's content determines the path. "" is none.
//
//	text:sha256:BASE32         a text file with references, as derivations are
//	fixed:sha256:BASE32        a file, hashed flat; any hash type
//	fixed:r:sha256:BASE32      anything, hashed as NAR; any hash type
//	fixed:git:sha1:BASE32      anything, hashed as Git does (experimental in Nix)
//
// The path follows from it, from the references, and from the path's name: see [Info.ContentPath].
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

var (
	errNoCA         = errors.New("no content address")
	errTextHash     = errors.New("text is hashed with SHA-256 alone")
	errTextSelf     = errors.New("text cannot refer to itself")
	errNoReferences = errors.New("what is not text, or a NAR hashed with SHA-256, cannot refer to anything")
)

// ContentPath returns the path that follows from CA, References and StorePath's name, in StorePath's directory: Nix's
// makeFixedOutputPathFromCA. A CA for which it is not StorePath is nothing to Nix. Whether CA's hash is that of the
// content is another question. Without a CA, or with one that nothing with such references can have, there is an error.
//
// HASHPART is base 32 of 20 bytes onto which the SHA-256 of TYPE ":sha256:" HEX ":" DIR ":" NAME is folded, where TYPE
// and HEX, base 16, are
//
//	text:REF:REF…            the CA's hash      of text:sha256
//	source:REF:REF…[:self]   the CA's hash      of fixed:r:sha256
//	output:out               the SHA-256 of "fixed:out:" [METHOD] HASHTYPE ":" HEX ":"   of any other fixed
func (i *Info) ContentPath() (StorePath, error) {
	path, err := i.contentPath()
	if err != nil {
		return "", fmt.Errorf("narinfo: path of content address %q: %w", clip(string(i.CA)), err)
	}
	return path, nil
}

func (i *Info) contentPath() (StorePath, error) {
	method, _, err := splitContentAddress(string(i.CA))
	if err != nil {
		return "", errNoCA
	}
	typ, self := i.referencesText()
	hash := i.CA.Hash()
	switch {
	case method == "text:" && hash.Type() != SHA256:
		return "", errTextHash
	case method == "text:" && self:
		return "", errTextSelf
	case method == "text:":
		typ = "text" + typ
	case method == "fixed:r:" && hash.Type() == SHA256:
		typ = "source" + typ
		if self {
			typ += ":self"
		}
	case len(i.References) > 0:
		return "", errNoReferences
	default:
		typ = "output:out"
		payload := "fixed:out:" + strings.TrimPrefix(method, "fixed:") + hash.Type().String() + ":" + hash.Base16() + ":"
		sum := sha256.Sum256([]byte(payload))
		if hash, err = NewHash(SHA256, sum[:]); err != nil {
			return "", err
		}
	}
	sum := sha256.Sum256([]byte(typ + ":sha256:" + hash.Base16() + ":" + i.StorePath.Dir() + ":" + i.StorePath.Name()))
	var folded [20]byte
	for n, b := range sum {
		folded[n%len(folded)] ^= b
	}
	return NewStorePath(i.StorePath.Dir(), nixbase32.EncodeToString(folded[:])+"-"+i.StorePath.Name())
}

// referencesText returns ":REF" for each reference to another path, and whether there is one to the path itself.
func (i *Info) referencesText() (text string, self bool) {
	var b strings.Builder
	for _, r := range i.References {
		if r == i.StorePath {
			self = true
			continue
		}
		b.WriteString(":" + string(r))
	}
	return b.String(), self
}
