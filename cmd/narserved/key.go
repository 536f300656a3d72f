package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/voidnxlab/nixtrap/signing"
)

// keyFileName is where the key that narserved makes for itself lies, below the state folder.
const keyFileName = "signing-key"

// signingKeys loads the configured keys, or the one in the state folder, which it makes if need be; made says so.
func (c *Config) signingKeys(env environ) (keys []*signing.SecretKey, made bool, err error) {
	if c.Unsigned {
		return nil, false, nil
	}
	if len(c.SignKey) == 0 {
		key, made, err := c.ownKey()
		return []*signing.SecretKey{key}, made, err
	}
	files := make(map[string]string) // by the names of their keys
	for _, file := range c.SignKey {
		key, err := signing.LoadSecretKey(file, env["CREDENTIALS_DIRECTORY"])
		if err != nil {
			return nil, false, hint(err, keyAdvice(err, file))
		}
		if other, twice := files[key.Name()]; twice {
			err := fmt.Errorf("sign-key: the keys in %s and %s are both named %q", other, file, key.Name())
			return nil, false, usageError{hint(err,
				"clients find a key by its name: drop one --sign-key, or make a key of another name with "+
					"narserved key generate NAME-2 --out FILE")}
		}
		files[key.Name()] = file
		keys = append(keys, key)
	}
	return keys, false, nil
}

func keyAdvice(err error, file string) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("make one: narserved key generate NAME-1 --out %s", file)
	case errors.Is(err, fs.ErrPermission):
		return "let this user read the file, or hand it over with systemd's LoadCredential="
	}
	return "a key file holds one line NAME:BASE64, as `narserved key generate` or " +
		"`nix-store --generate-binary-cache-key` writes it"
}

// ownKey loads the key in the state folder. If there is none it makes one, with a name after this machine's.
func (c *Config) ownKey() (key *signing.SecretKey, made bool, err error) {
	file := filepath.Join(c.StateDir, keyFileName)
	if c.StateDir == "" {
		err = errors.New("key: there is no state folder to keep one in")
	} else {
		key, err = signing.LoadSecretKey(file, "")
	}
	if errors.Is(err, fs.ErrNotExist) {
		made = true
		key, err = makeKey(file)
	}
	if err != nil {
		return nil, false, hint(err, "name a key with --sign-key FILE, a writable folder with --state-dir, "+
			"or serve without signatures with --unsigned")
	}
	return key, made, nil
}

// makeKey publishes the whole key or nothing, and never replaces one.
// Of two processes that make one at once, both return the one that came first.
func makeKey(file string) (*signing.SecretKey, error) {
	key, err := signing.GenerateKey(ownKeyName())
	if err != nil {
		return nil, err
	}
	draft := file + "." + rand.Text()
	if err := key.WriteFile(draft); err != nil {
		return nil, err
	}
	defer os.Remove(draft)
	if err := os.Link(draft, file); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return signing.LoadSecretKey(file, "")
}

// ownKeyName is HOST-1, as is the custom.
func ownKeyName() string {
	return hostName() + "-1"
}

// hostName is this machine's name, reduced to what host names are made of.
func hostName() string {
	name, err := os.Hostname()
	name = strings.Map(func(r rune) rune {
		if r == '-' || r == '.' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return -1
	}, name)
	if err != nil || name == "" {
		return "narserved"
	}
	return name
}

// publicKeys parses the keys of a setting.
func publicKeys(setting string, texts []string) (ring signing.Keyring, err error) {
	for _, text := range texts {
		key, err := signing.ParsePublicKey(text)
		if err != nil {
			return nil, usageError{hint(fmt.Errorf("%s: %w", setting, err),
				"a public key is NAME:BASE64, as in nix.conf's trusted-public-keys")}
		}
		ring = append(ring, key)
	}
	return ring, nil
}

// clientLines tells how to use this server: what goes into nix.conf or a NixOS configuration.
func clientLines(url string, keys []*signing.SecretKey) string {
	if url == "" { // a unix socket alone
		url = "http://ADDRESS-OF-YOUR-PROXY"
	}
	var public, quoted []string
	for _, key := range keys {
		public = append(public, key.Public().String())
		quoted = append(quoted, fmt.Sprintf("%q", key.Public()))
	}
	return fmt.Sprintf(`Nix clients use this server with these lines in /etc/nix/nix.conf:

    extra-substituters = %s
    extra-trusted-public-keys = %s

or, on NixOS, in configuration.nix:

    nix.settings.substituters = [ %q ];
    nix.settings.trusted-public-keys = [ %s ];
`, url, strings.Join(public, " "), url, strings.Join(quoted, " "))
}

func logKeys(log *slog.Logger, keys []*signing.SecretKey) {
	for _, key := range keys {
		log.Info("signing", "public_key", key.Public().String())
	}
}

// runKeyGenerate makes a key. The secret goes to a file, or to stdout; the public half goes to stdout, or to stderr if
// stdout has the secret.
func (p *process) runKeyGenerate(_ context.Context, cmd *command, args []string) error {
	set := cmd.flagSet()
	out := set.String("out", "", "write the secret key to a new `FILE`, readable by its owner alone")
	words, err := p.parse(cmd, set, args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return cmd.misuse("takes one NAME, such as cache.example.org-1")
	}
	key, err := signing.GenerateKey(words[0])
	if err != nil {
		return usageError{hint(err, "by custom a name is a host and a number: cache.example.org-1")}
	}
	if *out == "" {
		secret, err := key.MarshalText()
		if err != nil {
			return err
		}
		fmt.Fprintln(p.stderr, "public key:", key.Public())
		_, err = fmt.Fprintf(p.stdout, "%s\n", secret)
		return err
	}
	if err := key.WriteFile(*out); err != nil {
		return hint(err, outAdvice(err, *out))
	}
	_, err = fmt.Fprintln(p.stdout, key.Public())
	return err
}

// outAdvice says what to do about a key file that could not be written.
func outAdvice(err error, file string) string {
	switch {
	case errors.Is(err, fs.ErrExist):
		return "an existing key is never overwritten: choose another file with --out"
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("the folder must exist: mkdir -p %s", filepath.Dir(file))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("this user may not write in %s: choose another file with --out", filepath.Dir(file))
	}
	return "choose another file with --out"
}

// runKeyPublic prints a secret key's public half.
func (p *process) runKeyPublic(_ context.Context, cmd *command, args []string) error {
	words, err := p.parse(cmd, cmd.flagSet(), args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return cmd.misuse("takes one FILE with a secret key")
	}
	key, err := signing.LoadSecretKey(words[0], p.env["CREDENTIALS_DIRECTORY"])
	if err != nil {
		return hint(err, keyAdvice(err, words[0]))
	}
	_, err = fmt.Fprintln(p.stdout, key.Public())
	return err
}
