package narinfo_test

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// Each way in which Nix makes a content-addressed path gives a path that we compute, too.
func TestContentPathsOfRealNix(t *testing.T) {
	for _, n := range realnix.All(t) {
		t.Run(n.Release, func(t *testing.T) {
			dir := n.TempDir(t)
			store, source := path.Join(dir, "store"), path.Join(dir, "source")
			require.NoError(t, os.Mkdir(n.Host(source), 0o755))
			require.NoError(t, os.WriteFile(n.Host(path.Join(source, "file")), []byte("hello"), 0o644))
			nix := func(args ...string) {
				n.Run(t, "nix", append([]string{"--store", store, "--extra-experimental-features", "nix-command git-hashing"}, args...)...)
			}
			for _, hash := range []string{"md5", "sha1", "sha256", "sha512"} {
				n.Run(t, "nix-store", "--store", store, "--add-fixed", hash, path.Join(source, "file"))
				n.Run(t, "nix-store", "--store", store, "--add-fixed", "--recursive", hash, source)
			}
			nix("store", "add-path", source, "--name", "a-path")
			nix("store", "add-file", path.Join(source, "file"), "--name", "a-file")
			want := map[string]int{"text:": 4, "fixed:r:": 5, "fixed:": 5}
			if n.Release == "2.34" {
				nix("store", "add", "--mode", "git", "--hash-algo", "sha1", source, "--name", "in-git")
				want["fixed:git:"] = 1
			}
			expression := `let a = builtins.toFile "a" "x"; b = builtins.toFile "b" "refers to ${a}"; d = name: x:
				derivation { inherit name x; system = "x86_64-linux"; builder = "/bin/sh"; }; in d "top" [b (d "low" a)]`
			n.Run(t, "nix-instantiate", "--store", store, "-E", expression)
			nix("copy", "--no-check-sigs", "--all", "--to", "file://"+path.Join(dir, "cache"))

			for _, info := range cached(t, n.Host(path.Join(dir, "cache"))) {
				requireFits(t, info)
				want[methodOf(info.CA)]--
			}
			for method, left := range want {
				require.Zero(t, left, "paths that are addressed by %s and did not come", method)
			}
		})
	}
}

func requireFits(t *testing.T, info *narinfo.Info) {
	t.Helper()
	got, err := info.ContentPath()
	require.NoError(t, err)
	require.Equal(t, info.StorePath, got, "%s", info.CA)
}

// methodOf is what comes before the hash.
func methodOf(ca narinfo.ContentAddress) string {
	return strings.TrimSuffix(string(ca), ca.Hash().String())
}

// cached reads the narinfos of a directory.
func cached(t *testing.T, dir string) (all []*narinfo.Info) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.narinfo"))
	require.NoError(t, err)
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		all = append(all, parse(t, string(text)))
	}
	return all
}

// A path that refers to itself is rewritten by Nix to one that follows from its content.
func TestContentPathThatRefersToItself(t *testing.T) {
	for _, n := range realnix.All(t) {
		t.Run(n.Release, func(t *testing.T) {
			dir := n.TempDir(t)
			built := n.Run(t, "nix-build", "--no-out-link", "-E", `let a = builtins.toFile "a" "x"; in
				derivation { name = "self"; system = "x86_64-linux"; builder = "/bin/sh"; args = ["-c" "echo $out ${a} > $out"]; }`)
			features := "nix-command ca-derivations"
			n.Run(t, "nix", "--extra-experimental-features", features, "store", "make-content-addressed", strings.TrimSpace(built),
				"--to", "file://"+path.Join(dir, "cache"))
			selves := 0
			for _, info := range cached(t, n.Host(path.Join(dir, "cache"))) {
				requireFits(t, info)
				if slices.Contains(info.References, info.StorePath) {
					selves++
				}
			}
			require.Equal(t, 1, selves)
		})
	}
}

// Of a path that follows from its CA, none of the things that it follows from can be another.
func TestContentPathFollowsFromAllOfThem(t *testing.T) {
	for name, ca := range map[string]string{
		"text":        "text:sha256:1b6rqyma5pbr9v565ks2kp9xmww2c80m6c1jld64ka47lrc3ijvk",
		"a tree":      "fixed:r:sha256:1jpg5v8rcf4d08rlpq51vnd1w800l64h34r0bw4vkb6z3qlk089k",
		"a file":      "fixed:sha256:1b6rqyma5pbr9v565ks2kp9xmww2c80m6c1jld64ka47lrc3ijvk",
		"a SHA-1":     "fixed:r:sha1:s6s9l26smx1br7zhgkslbvvs85y8bgp5",
		"by Git":      "fixed:git:sha1:v7mq0nlnh88287lwh73hs14xwpfafmfz",
		"a MD5, flat": "fixed:md5:0rg7dkqqawb9ijkmmmp3ik06s0",
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(map[narinfo.HashPart]string)
			for _, dir := range []string{"/nix/store", "/gnu/store"} {
				for _, file := range []string{"a", "b"} {
					for refs := range 3 {
						info := &narinfo.Info{StorePath: narinfo.StorePath(dir + "/" + hashPart + "-" + file), CA: narinfo.ContentAddress(ca)}
						for n := range refs {
							info.References = append(info.References, narinfo.StorePath(fmt.Sprintf("%s/%s-r%d", dir, hashPart, n)))
						}
						got, err := info.ContentPath()
						if refs > 0 && name != "text" && name != "a tree" {
							require.ErrorContains(t, err, "cannot refer to anything")
							continue
						}
						require.NoError(t, err)
						require.Equal(t, dir+"-"+file, got.Dir()+"-"+got.Name())
						of := fmt.Sprint(dir, file, refs)
						require.Empty(t, seen[got.HashPart()], of)
						seen[got.HashPart()] = of
					}
				}
			}
		})
	}
}

func TestContentPathsThatNothingHas(t *testing.T) {
	self := narinfo.StorePath("/nix/store/" + hashPart + "-a")
	for name, c := range map[string]struct {
		ca         narinfo.ContentAddress
		references []narinfo.StorePath
		want       string
	}{
		"none":                         {"", nil, "no content address"},
		"merely converted":             {"nonsense", nil, "no content address"},
		"text of another hash":         {"text:sha1:s6s9l26smx1br7zhgkslbvvs85y8bgp5", nil, "SHA-256 alone"},
		"text that refers to itself":   {"text:sha256:1b6rqyma5pbr9v565ks2kp9xmww2c80m6c1jld64ka47lrc3ijvk", []narinfo.StorePath{self}, "itself"},
		"a file that refers to itself": {"fixed:sha256:1b6rqyma5pbr9v565ks2kp9xmww2c80m6c1jld64ka47lrc3ijvk", []narinfo.StorePath{self}, "to anything"},
	} {
		_, err := (&narinfo.Info{StorePath: self, CA: c.ca, References: c.references}).ContentPath()
		require.ErrorContains(t, err, c.want, name)
	}
}
