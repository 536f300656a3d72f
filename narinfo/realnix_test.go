package narinfo_test

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// What each release writes is canonical here, to the byte, and its signature verifies.
func TestNarinfosOfRealNix(t *testing.T) {
	for _, n := range realnix.All(t) {
		t.Run(n.Release, func(t *testing.T) {
			dir := n.TempDir(t)
			key, err := signing.GenerateKey("test-1")
			require.NoError(t, err)
			require.NoError(t, key.WriteFile(n.Host(path.Join(dir, "key"))))
			store := []string{"--store", path.Join(dir, "store")}
			expression := `let a = builtins.toFile "a" "x"; in builtins.toFile "b" "refers to ${a}"`
			n.Run(t, "nix-instantiate", append(store, "--eval", "--read-write-mode", "-E", expression)...)
			nix := append(store, "--extra-experimental-features", "nix-command")
			n.Run(t, "nix", append(nix, "copy", "--no-check-sigs", "--all", "--to",
				"file://"+path.Join(dir, "cache")+"?compression=zstd&secret-key="+path.Join(dir, "key"))...)

			files, err := filepath.Glob(filepath.Join(n.Host(path.Join(dir, "cache")), "*.narinfo"))
			require.NoError(t, err)
			require.Len(t, files, 2)
			for _, name := range files {
				text, err := os.ReadFile(name)
				require.NoError(t, err)
				info := parse(t, string(text))
				require.Equal(t, string(text), format(t, info))
				require.NotEmpty(t, info.CA)
				_, ok := info.VerifiedBy(signing.Keyring{key.Public()})
				require.True(t, ok)
				before := info.Clone()
				info.Sign(key)
				require.Equal(t, before, info, "we sign to the same letter")
			}
			text, err := os.ReadFile(filepath.Join(n.Host(path.Join(dir, "cache")), "nix-cache-info"))
			require.NoError(t, err)
			c, err := narinfo.ParseCacheInfo(text)
			require.NoError(t, err)
			again, err := c.MarshalText()
			require.NoError(t, err)
			require.Equal(t, string(text), string(again))
		})
	}
}

// What is written here every release reads, and says the same of it; it checks our signature too.
func TestRealNixReadsOurNarinfos(t *testing.T) {
	key, err := signing.GenerateKey("test-1")
	require.NoError(t, err)
	for _, n := range realnix.All(t) {
		t.Run(n.Release, func(t *testing.T) {
			cache := n.TempDir(t)
			write := func(name, text string) {
				require.NoError(t, os.WriteFile(filepath.Join(n.Host(cache), name), []byte(text), 0o644))
			}
			info := parse(t, full)
			info.Signatures = nil
			info.CA = "" // the path can't be computed from it
			info.Sign(key)
			write("nix-cache-info", "StoreDir: /nix/store\n")
			write(hashPart+".narinfo", format(t, info))

			nix := func(args ...string) []string {
				return append(args, "--store", "file://"+cache, "--extra-experimental-features", "nix-command", string(info.StorePath))
			}
			out := n.Run(t, "nix", nix("path-info", "--sigs", "--size")...)
			require.Contains(t, out, string(info.Signatures[0]))
			require.Contains(t, out, "226560")
			references := n.Run(t, "nix-store", "--store", "file://"+cache, "-q", "--references", string(info.StorePath))
			require.ElementsMatch(t, []string{string(info.References[0]), string(info.References[1])}, strings.Fields(references))

			verify := nix("store", "verify", "--no-contents", "--option", "trusted-public-keys")
			trusted := append(verify[:5:5], append([]string{key.Public().String()}, verify[5:]...)...)
			n.Run(t, "nix", trusted...)
			stranger, err := signing.GenerateKey("test-1")
			require.NoError(t, err)
			untrusted := append(verify[:5:5], append([]string{stranger.Public().String()}, verify[5:]...)...)
			require.Error(t, n.Command(t, "nix", untrusted...).Run(), "another key of the same name does not verify")
		})
	}
}
