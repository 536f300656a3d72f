package signing_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/signing"
)

func secret(t testing.TB, k *signing.SecretKey) string {
	t.Helper()
	text, err := k.MarshalText()
	require.NoError(t, err)
	return string(text)
}

func TestSecretKeyRoundTrip(t *testing.T) {
	k := key(t, "one-1")
	parsed, err := signing.ParseSecretKey("\n " + secret(t, k) + " \n")
	require.NoError(t, err)
	require.Equal(t, secret(t, k), secret(t, parsed))
	require.Equal(t, k.Public(), parsed.Public())
	require.Equal(t, "one-1", parsed.Name())
	require.NotEqual(t, secret(t, k), secret(t, key(t, "one-1")), "keys are random")
}

// Every single-byte change of a key file is refused, or, in the name alone, is another name.
func TestMangledSecretKeyIsRefused(t *testing.T) {
	text := secret(t, key(t, "one-1"))
	for i := range text {
		for c := range 256 {
			mangled := []byte(text)
			mangled[i] = byte(c)
			k, err := signing.ParseSecretKey(string(mangled))
			switch {
			case byte(c) == text[i]:
				require.NoError(t, err)
			case err == nil:
				require.Less(t, i, len("one-1"), "byte %d is %q", i, c)
				require.Equal(t, strings.TrimSpace(string(mangled)), secret(t, k))
			default:
				requireNoSecret(t, text, err.Error())
			}
		}
		_, err := signing.ParseSecretKey(text[:i])
		require.Error(t, err, "cut to %d bytes", i)
		requireNoSecret(t, text, err.Error())
	}
}

func TestParseSecretKeyRefusesHalvesOfTwoKeys(t *testing.T) {
	raw := func(k *signing.SecretKey) []byte {
		b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret(t, k), "one-1:"))
		require.NoError(t, err)
		return b
	}
	a, b := raw(key(t, "one-1")), raw(key(t, "one-1"))
	mixed := "one-1:" + base64.StdEncoding.EncodeToString(append(a[:32:32], b[32:]...))
	_, err := signing.ParseSecretKey(mixed)
	require.EqualError(t, err, "signing: secret key: the public half does not belong to the secret half")
}

func TestGenerateKeyRefusesNames(t *testing.T) {
	for _, name := range []string{"", "a:b", "a b", "a\nb", "a\tb", "a\u00a0b", "a\x00", "\xff"} {
		_, err := signing.GenerateKey(name)
		require.ErrorContains(t, err, fmt.Sprintf("signing: key name %q", name))
	}
	for _, name := range []string{"a", "cache.example.org-1", "ключ-1"} {
		_, err := signing.ParseSecretKey(secret(t, key(t, name)))
		require.NoError(t, err, name)
	}
}

// requireNoSecret fails if any eight characters of the key's base 64 occur in s, or its bytes in some other notation.
func requireNoSecret(t *testing.T, text, s string) {
	t.Helper()
	_, encoded, _ := strings.Cut(text, ":")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	require.NoError(t, err)
	for i := range len(encoded) - 8 {
		require.NotContains(t, s, encoded[i:i+8])
	}
	for _, verb := range []string{"%x", "%X", "%d", "%v", "%#v", "%q", "%s"} {
		shown := fmt.Sprintf(verb, raw[:4])
		require.NotContains(t, s, strings.Trim(shown, "[]{}\""), verb)
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	k := key(t, "one-1")
	text := secret(t, k)
	type holder struct {
		Exported *signing.SecretKey
		Value    signing.SecretKey
		pointer  *signing.SecretKey
		value    signing.SecretKey
	}
	h := holder{k, *k, k, *k}
	values := map[string]any{
		"pointer": k, "value": *k, "struct": h, "struct pointer": &h, "slice": []*signing.SecretKey{k},
		"map": map[string]signing.SecretKey{"k": *k}, "unexported": []any{h.pointer, h.value},
	}
	for name, v := range values {
		for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
			for _, flags := range []string{"", "+", "#", "-", " ", "0", "20.5"} {
				requireNoSecret(t, text, fmt.Sprintf("%"+flags+string(verb), v))
			}
		}
		requireNoSecret(t, text, fmt.Sprint(v)+fmt.Sprintln(v))
		b, err := json.Marshal(v)
		require.NoError(t, err, name)
		requireNoSecret(t, text, string(b))
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("m", "k", v, slog.Group("g", "k", v))
		slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "k", v, slog.Group("g", "k", v))
		require.NotEmpty(t, log.String())
		requireNoSecret(t, text, log.String())
	}
	require.Equal(t, "one-1:(secret)", k.String())
	require.Equal(t, "one-1:(secret)", k.GoString())
	require.Equal(t, "one-1:(secret)", fmt.Sprintf("%#v", k))
	require.Equal(t, "<nil>", fmt.Sprint((*signing.SecretKey)(nil)))
	require.Equal(t, ":(secret)", fmt.Sprint(signing.SecretKey{}))
}

func TestWriteFileNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	k := key(t, "one-1")
	require.NoError(t, k.WriteFile(path))
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), st.Mode())

	err = key(t, "two-1").WriteFile(path)
	require.ErrorIs(t, err, fs.ErrExist)
	loaded, err := signing.LoadSecretKey(path, "")
	require.NoError(t, err)
	require.Equal(t, k.Public(), loaded.Public())

	dangling := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(filepath.Join(t.TempDir(), "target"), dangling))
	require.ErrorIs(t, k.WriteFile(dangling), fs.ErrExist, "a link is not followed")
	require.ErrorIs(t, k.WriteFile(filepath.Join(t.TempDir(), "no", "key")), fs.ErrNotExist)
}

func TestLoadSecretKey(t *testing.T) {
	credentials, folder := t.TempDir(), t.TempDir()
	inCredentials, inFolder := key(t, "credential-1"), key(t, "folder-1")
	require.NoError(t, inCredentials.WriteFile(filepath.Join(credentials, "key")))
	require.NoError(t, inFolder.WriteFile(filepath.Join(folder, "key")))
	require.NoError(t, inFolder.WriteFile(filepath.Join(folder, "only-here")))
	t.Chdir(folder)
	for _, c := range []struct{ name, path, credentials, want string }{
		{"bare name, no credentials", "key", "", "folder-1"},
		{"bare name in credentials", "key", credentials, "credential-1"},
		{"bare name not in credentials", "only-here", credentials, "folder-1"},
		{"relative path", "./key", credentials, "folder-1"},
		{"absolute path", filepath.Join(folder, "key"), credentials, "folder-1"},
	} {
		k, err := signing.LoadSecretKey(c.path, c.credentials)
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, k.Name(), c.name)
	}
	for _, path := range []string{"absent", "", "./absent", "/absent/absent"} {
		_, err := signing.LoadSecretKey(path, credentials)
		require.ErrorIs(t, err, fs.ErrNotExist, "%q", path)
	}
	_, err := signing.LoadSecretKey("key", filepath.Join(folder, "absent"))
	require.NoError(t, err, "a credentials directory that isn't there has no file")
}

func TestLoadSecretKeyErrors(t *testing.T) {
	folder := t.TempDir()
	text := secret(t, key(t, "one-1"))
	write := func(name, content string) string {
		path := filepath.Join(folder, name)
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	cut := write("cut", text[:len(text)-5])
	_, err := signing.LoadSecretKey(cut, "")
	require.ErrorContains(t, err, fmt.Sprintf("%q", cut))
	requireNoSecret(t, text, err.Error())

	_, err = signing.LoadSecretKey(write("large", text+strings.Repeat("\n", 1<<20)), "")
	require.ErrorContains(t, err, "larger than any key file")
	_, err = signing.LoadSecretKey(folder, "")
	require.ErrorContains(t, err, "is a directory")

	// A credential that can't be used is an error, not a reason to look elsewhere.
	t.Chdir(t.TempDir())
	require.NoError(t, key(t, "elsewhere-1").WriteFile("cut"))
	_, err = signing.LoadSecretKey("cut", folder)
	require.ErrorContains(t, err, "signing: secret key: ")
}
