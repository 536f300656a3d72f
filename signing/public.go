package signing

import (
	"crypto/ed25519"
	"fmt"
	"strings"
)

// PublicKey is a named Ed25519 public key. Comparable; the zero value verifies nothing.
type PublicKey struct {
	name string
	key  [ed25519.PublicKeySize]byte
}

// ParsePublicKey reads a public key's text, with surrounding white space ignored.
func ParsePublicKey(text string) (PublicKey, error) {
	text = strings.TrimSpace(text)
	var k PublicKey
	var err error
	if k.name, err = split(text, k.key[:]); err != nil {
		// Not quoted either: it may be a secret key in the wrong place.
		return PublicKey{}, fmt.Errorf("signing: public key: %w", err)
	}
	return k, nil
}

// Name returns the key's name, by which signatures refer to it.
func (k PublicKey) Name() string { return k.name }

// String returns the key's text, as in nix.conf's trusted-public-keys. [ParsePublicKey] reads it.
func (k PublicKey) String() string { return string(encode(k.name, k.key[:])) }

// Verify reports whether s is this key's signature over message: by name and by content.
func (k PublicKey) Verify(message []byte, s Signature) bool {
	name, encoded, ok := strings.Cut(string(s), ":")
	var raw [ed25519.SignatureSize]byte
	return ok && name != "" && name == k.name && decode(raw[:], encoded) && ed25519.Verify(k.key[:], message, raw[:])
}

// Keyring is a set of trusted keys.
// Its order matters only to say which key verified, and two keys of one name are both tried.
type Keyring []PublicKey

// ParseKeyring reads public keys separated by white space, as in nix.conf's trusted-public-keys.
func ParseKeyring(text string) (Keyring, error) {
	var ring Keyring
	for word := range strings.FieldsSeq(text) {
		k, err := ParsePublicKey(word)
		if err != nil {
			return nil, err
		}
		ring = append(ring, k)
	}
	return ring, nil
}

// Verify returns the first key of the ring that made one of the signatures over message.
func (r Keyring) Verify(message []byte, sigs ...Signature) (PublicKey, bool) {
	for _, k := range r {
		for _, s := range sigs {
			if k.Verify(message, s) {
				return k, true
			}
		}
	}
	return PublicKey{}, false
}
