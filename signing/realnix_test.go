package signing_test

import (
	"os"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/signing"
)

// Keys made by each release load here, with the public half that the release itself computes.
func TestKeysOfRealNix(t *testing.T) {
	for _, n := range realnix.All(t) {
		t.Run(n.Release, func(t *testing.T) {
			dir := n.TempDir(t)
			n.Run(t, "nix-store", "--generate-binary-cache-key", "real-1", path.Join(dir, "secret"), path.Join(dir, "public"))
			k, err := signing.LoadSecretKey(n.Host(path.Join(dir, "secret")), "")
			require.NoError(t, err)
			public, err := os.ReadFile(n.Host(path.Join(dir, "public")))
			require.NoError(t, err)
			require.Equal(t, strings.TrimSpace(string(public)), k.Public().String())

			again, err := os.ReadFile(n.Host(path.Join(dir, "secret")))
			require.NoError(t, err)
			require.Equal(t, string(again), secret(t, k), "the file is byte for byte what we would write")
		})
	}
}

// A key made here is read by each release: it computes the same public half and signs the same path to the same letter.
func TestRealNixReadsOurKeys(t *testing.T) {
	for _, n := range realnix.All(t) {
		t.Run(n.Release, func(t *testing.T) {
			dir := n.TempDir(t)
			k := key(t, "ours-1")
			keyFile, store := path.Join(dir, "key"), path.Join(dir, "store")
			require.NoError(t, k.WriteFile(n.Host(keyFile)))

			convert := n.Command(t, "nix", "key", "convert-secret-to-public", "--extra-experimental-features", "nix-command")
			convert.Stdin = strings.NewReader(secret(t, k))
			out, err := convert.Output()
			require.NoError(t, err)
			require.Equal(t, k.Public().String(), strings.TrimSpace(string(out)))

			nix := func(args ...string) string {
				return n.Run(t, "nix", append(args, "--store", store, "--extra-experimental-features", "nix-command")...)
			}
			require.NoError(t, os.WriteFile(n.Host(path.Join(dir, "hello")), []byte("hello\n"), 0o644))
			p := n.Run(t, "nix-store", "--store", store, "--add", path.Join(dir, "hello"))
			nix("store", "sign", "--key-file", keyFile, p)
			hash := n.Run(t, "nix-store", "--store", store, "-q", "--hash", p)
			size := n.Run(t, "nix-store", "--store", store, "-q", "--size", p)
			fingerprint := "1;" + p + ";" + hash + ";" + size + ";"
			require.Contains(t, nix("path-info", "--sigs", p), string(k.Sign([]byte(fingerprint))))
		})
	}
}
