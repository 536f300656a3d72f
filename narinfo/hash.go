package narinfo

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
)

// HashType names a hash algorithm. The zero value is none.
type HashType uint8

// The algorithms that Nix knows. BLAKE3 is an experimental feature there.
const (
	MD5 HashType = iota + 1
	SHA1
	SHA256
	SHA512
	BLAKE3
)

// hashTypes has each type's name and digest length at its number.
var hashTypes = [...]struct {
	name string
	size int
}{MD5: {"md5", 16}, SHA1: {"sha1", 20}, SHA256: {"sha256", 32}, SHA512: {"sha512", 64}, BLAKE3: {"blake3", 32}}

// maxHashText is the length of the longest hash in Nix's canonical form, "sha512:" and 103 characters.
const maxHashText = 7 + 103

// String returns Nix's name of the algorithm, "sha256"; "" for the zero value and for values that are no type.
func (t HashType) String() string {
	if int(t) >= len(hashTypes) {
		return ""
	}
	return hashTypes[t].name
}

// Size returns the length of a digest in bytes.
func (t HashType) Size() int {
	if int(t) >= len(hashTypes) {
		return 0
	}
	return hashTypes[t].size
}

func parseHashType(name string) (HashType, bool) {
	for t := MD5; t <= BLAKE3; t++ {
		if hashTypes[t].name == name {
			return t, true
		}
	}
	return 0, false
}

// Hash is a digest with its algorithm. Comparable; the zero value means absent.
type Hash struct {
	typ    HashType
	digest [64]byte
}

var (
	errHashForm   = errors.New("neither TYPE:DIGEST nor TYPE-BASE64")
	errHashType   = errors.New("unknown hash type")
	errHashLength = errors.New("wrong length for its type")
	errHashDigest = errors.New("not a canonical encoding")
)

// ParseHash reads TYPE ":" DIGEST, where DIGEST is base 32, base 16 or base 64 as its length says, and the SRI form
// TYPE "-" BASE64. Base 32 and base 64 must be canonical: no stray bits, and padding where it belongs.
func ParseHash(s string) (Hash, error) {
	h, err := parseHash(s)
	if err != nil {
		return Hash{}, fmt.Errorf("narinfo: hash %q: %w", clip(s), err)
	}
	return h, nil
}

func parseHash(s string) (Hash, error) {
	name, digest, ok := strings.Cut(s, ":")
	sri := !ok
	if sri {
		if name, digest, ok = strings.Cut(s, "-"); !ok {
			return Hash{}, errHashForm
		}
	}
	t, ok := parseHashType(name)
	if !ok {
		return Hash{}, errHashType
	}
	if sri && len(digest) != base64.StdEncoding.EncodedLen(t.Size()) {
		return Hash{}, errHashLength
	}
	return parseDigest(t, digest)
}

// ParseDigest reads a digest without its type, in base 32, base 16 or base 64 as its length says.
func ParseDigest(t HashType, digest string) (Hash, error) {
	h, err := parseDigest(t, digest)
	if err != nil {
		return Hash{}, fmt.Errorf("narinfo: %s digest %q: %w", t, clip(digest), err)
	}
	return h, nil
}

func parseDigest(t HashType, digest string) (Hash, error) {
	h := Hash{typ: t}
	size := t.Size()
	if size == 0 {
		return Hash{}, errHashType
	}
	var text [128]byte // the longest encoding, SHA-512 in base 16; a copy, so that the string isn't cloned on the heap
	src := text[:copy(text[:], digest)]
	var err error
	switch len(digest) {
	case nixbase32.EncodedLen(size):
		_, err = nixbase32.Decode(h.digest[:size], src)
	case hex.EncodedLen(size):
		_, err = hex.Decode(h.digest[:size], src)
	case base64.StdEncoding.EncodedLen(size):
		err = decodeBase64(h.digest[:size], src)
	default:
		return Hash{}, errHashLength
	}
	if err != nil {
		return Hash{}, errHashDigest
	}
	return h, nil
}

func decodeBase64(dst, src []byte) error {
	var buf [66]byte
	// Newlines, which the decoder skips, would leave too few bytes.
	if n, err := base64.StdEncoding.Strict().Decode(buf[:], src); err != nil || n != len(dst) {
		return errHashDigest
	}
	copy(dst, buf[:])
	return nil
}

// NewHash makes a Hash from a digest, whose length must be the type's.
func NewHash(t HashType, digest []byte) (Hash, error) {
	if t.Size() == 0 {
		return Hash{}, fmt.Errorf("narinfo: hash: %w", errHashType)
	}
	if len(digest) != t.Size() {
		return Hash{}, fmt.Errorf("narinfo: %s hash of %d bytes: %w", t, len(digest), errHashLength)
	}
	h := Hash{typ: t}
	copy(h.digest[:], digest)
	return h, nil
}

// IsZero reports whether h is the zero value, which means absent. The methods below return "" for it.
func (h Hash) IsZero() bool { return h.typ == 0 }

// Type returns the algorithm.
func (h Hash) Type() HashType { return h.typ }

// Digest returns a copy of the digest.
func (h Hash) Digest() []byte { return slices.Clone(h.bytes()) }

func (h *Hash) bytes() []byte { return h.digest[:h.typ.Size()] }

// String returns "sha256:BASE32", Nix's canonical form.
func (h Hash) String() string { return string(h.appendText(nil)) }

// Base32 returns the digest alone in Nix's base 32.
func (h Hash) Base32() string { return string(h.appendBase32(nil)) }

// Base16 returns the digest alone in lower-case hexadecimal.
func (h Hash) Base16() string { return hex.EncodeToString(h.bytes()) }

// Base64 returns the digest alone in base 64.
func (h Hash) Base64() string { return base64.StdEncoding.EncodeToString(h.bytes()) }

// SRI returns "sha256-BASE64", the form of the web's subresource integrity.
func (h Hash) SRI() string {
	if h.IsZero() {
		return ""
	}
	return h.typ.String() + "-" + h.Base64()
}

func (h Hash) appendText(b []byte) []byte {
	if h.IsZero() {
		return b
	}
	return h.appendBase32(append(append(b, h.typ.String()...), ':'))
}

func (h Hash) appendBase32(b []byte) []byte {
	n := nixbase32.EncodedLen(h.typ.Size())
	b = slices.Grow(b, n)
	nixbase32.Encode(b[len(b):len(b)+n], h.bytes())
	return b[:len(b)+n]
}
