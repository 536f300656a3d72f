package narinfo_test

import (
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// privateStore is a store of a release in a directory that is also the one in its paths, so that it can build.
type privateStore struct {
	realnix.Nix
	dir string
}

func (s privateStore) run(t testing.TB, program string, args ...string) string {
	t.Helper()
	cmd := s.Command(t, program, args...)
	cmd.Env = append(cmd.Env,
		"NIX_STORE_DIR="+s.dir+"/store", "NIX_STATE_DIR="+s.dir+"/state", "NIX_LOG_DIR="+s.dir+"/log")
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		require.NoError(t, err, "%s %v: %s", program, args, exit.Stderr)
	}
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// fill makes one path of each kind and returns them by kind. What is built is signed with the key in keyFile.
func (s privateStore) fill(t testing.TB, keyFile string) map[string]string {
	t.Helper()
	file := path.Join(s.dir, "file")
	require.NoError(t, os.WriteFile(s.Host(file), []byte("content\n"), 0o644))
	paths := map[string]string{
		"fixed:r:sha256:": s.run(t, "nix-store", "--add", file),
		"fixed:r:sha1:":   s.run(t, "nix-store", "--add-fixed", "--recursive", "sha1", file),
		"text:sha256:":    s.run(t, "nix-instantiate", "--eval", "--read-write-mode", "-E", `"${builtins.toFile "t" "x"}"`),
	}
	paths["text:sha256:"] = strings.Trim(paths["text:sha256:"], `"`)
	for _, typ := range []string{"md5", "sha1", "sha256", "sha512"} {
		paths["fixed:"+typ+":"] = s.run(t, "nix-store", "--add-fixed", typ, file)
	}
	paths["built"] = s.run(t, "nix-build", "--no-out-link", "--secret-key-files", keyFile, "-E", `derivation {
		name = "built"; system = builtins.currentSystem; builder = "/bin/sh";
		args = [ "-c" "echo $out $other > $out" ]; other = builtins.toFile "other" "x"; }`)
	paths["derivation"] = s.run(t, "nix-store", "-q", "--deriver", paths["built"])
	return paths
}

func newKey(t testing.TB, n realnix.Nix, name, file string) signing.PublicKey {
	t.Helper()
	key, err := signing.GenerateKey(name)
	require.NoError(t, err)
	require.NoError(t, key.WriteFile(n.Host(file)))
	return key.Public()
}

// Paths of every kind, as each release writes them to a cache: to the byte what formatting gives, and every signature
// verifies over the fingerprint.
func TestNarinfosOfEveryKind(t *testing.T) {
	for _, n := range realnix.All(t) {
		t.Run(n.Release, func(t *testing.T) {
			s := privateStore{n, n.TempDir(t)}
			builder := newKey(t, n, "builder-1", path.Join(s.dir, "builder.key"))
			cacheKey := newKey(t, n, "cache-1", path.Join(s.dir, "cache.key"))
			paths := s.fill(t, path.Join(s.dir, "builder.key"))
			for query, keys := range map[string][]signing.PublicKey{
				"": nil,
				"?compression=none&secret-key=" + path.Join(s.dir, "cache.key"): {cacheKey},
			} {
				cache := path.Join(s.dir, "cache-"+string(rune('a'+len(keys))))
				s.run(t, "nix", "copy", "--all", "--no-check-sigs", "--to", "file://"+cache+query)
				for kind, p := range paths {
					info := requireCanonical(t, n.Host(cache), narinfo.StorePath(p))
					requireKind(t, kind, info, paths)
					if kind == "built" {
						requireSignedBy(t, info, append(slices.Clone(keys), builder)...)
						continue
					}
					requireSignedBy(t, info, keys...)
				}
			}
		})
	}
}

func requireCanonical(t testing.TB, cache string, p narinfo.StorePath) *narinfo.Info {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cache, string(p.HashPart())+".narinfo"))
	require.NoError(t, err)
	info := parse(t, string(text))
	require.Equal(t, string(text), format(t, info))
	require.Equal(t, p, info.StorePath)
	require.Equal(t, filepath.Base(info.URL)[:52], info.FileHash.Base32(), "the archive is named by its hash")
	return info
}

func requireKind(t testing.TB, kind string, info *narinfo.Info, paths map[string]string) {
	t.Helper()
	switch kind {
	case "built":
		require.Contains(t, info.References, info.StorePath)
		require.Len(t, info.References, 2)
		require.Equal(t, narinfo.StorePath(paths["derivation"]), info.Deriver)
		require.True(t, info.Deriver.IsDerivation())
		require.Empty(t, info.CA)
	case "derivation":
		require.Len(t, info.References, 1)
		require.True(t, strings.HasPrefix(string(info.CA), "text:sha256:"))
	default:
		require.True(t, strings.HasPrefix(string(info.CA), kind), "%s of %s", info.CA, kind)
		require.Empty(t, info.References)
	}
}

func requireSignedBy(t testing.TB, info *narinfo.Info, keys ...signing.PublicKey) {
	t.Helper()
	require.Len(t, info.Signatures, len(keys))
	for _, k := range keys {
		signs := func(s signing.Signature) bool { return k.Verify(info.Fingerprint(), s) }
		require.True(t, slices.ContainsFunc(info.Signatures, signs), "%s: %v", k, info.Signatures)
	}
}
