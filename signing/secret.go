package signing

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// maxKeyFile bounds how much of a key file is read.
const maxKeyFile = 16 << 10

// SecretKey is a named Ed25519 key that signs.
// It never shows its secret in String, GoString, any fmt verb, a log, JSON or an error.
// The zero value is no key: its methods panic, except those that print.
// A SecretKey does not change and is safe for concurrent use.
type SecretKey struct {
	name string
	// A function, so that no verb of fmt shows more than an address even where it cannot call Format: below an
	// unexported field. (It follows a pointer there, for verbs that do not suit.)
	key func() ed25519.PrivateKey
}

func newSecretKey(name string, key ed25519.PrivateKey) *SecretKey {
	return &SecretKey{name: name, key: func() ed25519.PrivateKey { return key }}
}

// GenerateKey makes a new key with the given name from the system's randomness.
func GenerateKey(name string) (*SecretKey, error) {
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("signing: key name %q: %w", name, err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("signing: generating a key: %w", err)
	}
	return newSecretKey(name, private), nil
}

// ParseSecretKey reads a secret key's text, with surrounding white space ignored.
func ParseSecretKey(text string) (*SecretKey, error) {
	key := make(ed25519.PrivateKey, ed25519.PrivateKeySize)
	name, err := split(strings.TrimSpace(text), key)
	if err == nil && !bytes.Equal(key, ed25519.NewKeyFromSeed(key.Seed())) {
		err = errHalves
	}
	if err != nil {
		return nil, fmt.Errorf("signing: secret key: %w", err)
	}
	return newSecretKey(name, key), nil
}

// LoadSecretKey reads a key file.
//
// credentials is the directory that systemd names in $CREDENTIALS_DIRECTORY, or "": a path without a slash is looked
// for there first, and as a path only if the directory has no such file. The file's mode is not looked at.
// A file that is not there is an error for which errors.Is(err, [fs.ErrNotExist]) is true.
func LoadSecretKey(path, credentials string) (*SecretKey, error) {
	text, err := readCredential(path, credentials)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = readKeyFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("signing: secret key: %w", err)
	}
	k, err := ParseSecretKey(string(text))
	if err != nil {
		return nil, fmt.Errorf("%w (in file %q)", err, path)
	}
	return k, nil
}

func readCredential(name, dir string) ([]byte, error) {
	if dir == "" || name == "" || strings.Contains(name, "/") {
		return nil, fs.ErrNotExist
	}
	return readKeyFile(filepath.Join(dir, name))
}

func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(text) > maxKeyFile {
		err = fmt.Errorf("%q is larger than any key file", path)
	}
	return text, err
}

// Name returns the key's name, which every signature carries.
func (k *SecretKey) Name() string { return k.name }

// Public returns the public half, which others need to verify.
func (k *SecretKey) Public() PublicKey {
	return PublicKey{name: k.name, key: [ed25519.PublicKeySize]byte(k.key()[ed25519.SeedSize:])}
}

// Sign signs the message. Ed25519 is deterministic: the same message has the same signature each time.
func (k *SecretKey) Sign(message []byte) Signature {
	return Signature(encode(k.name, ed25519.Sign(k.key(), message)))
}

// MarshalText gives the secret key file's content: with [SecretKey.WriteFile] the one door by which the secret leaves.
func (k *SecretKey) MarshalText() ([]byte, error) { return encode(k.name, k.key()), nil }

// WriteFile writes the key file, readable by its owner alone (mode 0600).
// It never overwrites: if anything exists at path, errors.Is(err, [fs.ErrExist]) is true.
// On return without error the content is on disk. A file that could not be written whole is removed.
func (k *SecretKey) WriteFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("signing: writing a secret key: %w", err)
	}
	_, err = f.Write(encode(k.name, k.key()))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("signing: writing a secret key: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// String returns the name and says that the secret is withheld.
func (k SecretKey) String() string { return k.name + ":(secret)" }

// GoString is String.
func (k SecretKey) GoString() string { return k.String() }

// Format prints String for every verb.
func (k SecretKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue logs String.
func (k SecretKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON encodes String.
func (k SecretKey) MarshalJSON() ([]byte, error) { return json.Marshal(k.String()) }
