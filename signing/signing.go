// Package signing holds the named Ed25519 keys with which Nix signs store paths: it makes, loads and writes them,
// signs with them and verifies.
//
// Servers call [LoadSecretKey] and [SecretKey.Sign]; whoever trusts calls [ParsePublicKey] and [Keyring.Verify].
// What is signed is the caller's affair: for store paths see narinfo.Info.Fingerprint.
//
// # Formats
//
// Three texts share one form, a name, a colon and standard base 64 (RFC 4648, section 4, with padding):
//
//	secret key   NAME ":" BASE64(SEED PUBLIC)   64 bytes, as libsodium lays a secret key out
//	public key   NAME ":" BASE64(PUBLIC)        32 bytes, one word of nix.conf's trusted-public-keys
//	signature    NAME ":" BASE64(R S)           64 bytes, an Ed25519 signature (RFC 8032)
//
// A name is not empty and has no colon, white space or control character. By custom it is the cache's host name and a
// number, "cache.example.org-1": Nix finds the key of a signature by that name alone, so two keys need two names.
// A key file holds the secret key's text and nothing else; Nix writes it without a newline.
//
// Nix decodes leniently: it skips newlines inside the base 64, and ignores missing padding and stray bits at the end.
// This package reads what Nix writes and nothing else, so that no signature and no key has a second spelling.
// White space around a key's text is the exception.
// A secret key whose public half does not belong to its seed is refused: signing with it would give the seed away.
//
// # Secrets
//
// The secret leaves a [SecretKey] by [SecretKey.MarshalText] and [SecretKey.WriteFile] only.
// Everything that prints, logs or encodes as JSON shows the name, and no error quotes the text of a key.
package signing

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Signature is one signature in Nix's text form, NAME ":" BASE64.
// It is kept as text, so that signatures of kinds that this package cannot verify survive a round trip.
type Signature string

// KeyName returns the part before the first colon, "" if there is no colon.
func (s Signature) KeyName() string {
	name, _, ok := strings.Cut(string(s), ":")
	if !ok {
		return ""
	}
	return name
}

// Errors that say what is wrong with a text without quoting any of it.
var (
	errForm   = errors.New("not of the form NAME:BASE64")
	errName   = errors.New("the name is empty or has a colon, white space or control characters")
	errBase64 = errors.New("the part after the colon is not canonical base 64 of the right length")
	errHalves = errors.New("the public half does not belong to the secret half")
)

// split reads NAME ":" BASE64, where BASE64 encodes len(raw) bytes, into raw.
func split(text string, raw []byte) (name string, err error) {
	name, encoded, ok := strings.Cut(text, ":")
	if !ok {
		return "", errForm
	}
	if err := checkName(name); err != nil {
		return "", err
	}
	if !decode(raw, encoded) {
		return "", errBase64
	}
	return name, nil
}

// decode fills raw from canonical base 64 of exactly its length, and reports whether s was that.
func decode(raw []byte, s string) bool {
	enc := base64.StdEncoding.Strict()
	// The decoder skips newlines, which a text of the right length could only have in the place of data.
	if len(s) != enc.EncodedLen(len(raw)) || strings.ContainsAny(s, "\r\n") {
		return false
	}
	var buf [66]byte // room for the longest text here, 88 characters
	n, err := enc.Decode(buf[:], []byte(s))
	return err == nil && n == len(raw) && copy(raw, buf[:n]) == n
}

func checkName(name string) error {
	bad := func(r rune) bool { return r == ':' || unicode.IsSpace(r) || unicode.IsControl(r) }
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, bad) {
		return errName
	}
	return nil
}

func encode(name string, raw []byte) []byte {
	b := make([]byte, 0, len(name)+1+base64.StdEncoding.EncodedLen(len(raw)))
	b = append(append(b, name...), ':')
	return base64.StdEncoding.AppendEncode(b, raw)
}

// WellFormed reports whether s has a name and, behind the first colon, base 64 of something.
// It says nothing of whose signature it is, or over what.
func (s Signature) WellFormed() bool {
	name, text, _ := strings.Cut(string(s), ":")
	data, err := base64.StdEncoding.DecodeString(text)
	return name != "" && err == nil && len(data) > 0
}
