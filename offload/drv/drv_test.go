package drv_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/drv"
)

const hash = "00000000000000000000000000000000"

// aterm writes a derivation of one output.
func aterm(output, inputs, builder string, env ...string) string {
	var pairs []string
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		pairs = append(pairs, fmt.Sprintf("(%q,%q)", name, value))
	}
	return `Derive([` + output + `],[` + inputs + `],[],"x86_64-linux","` + builder + `",[],[` + strings.Join(pairs, ",") + `])`
}

const plainOutput = `("out","/nix/store/` + hash + `-hello-2.12.1","","")`

func path(name string) string { return "/nix/store/" + hash + "-" + name + ".drv" }

func input(name string) string { return `("` + path(name) + `",["out"])` }

func TestParse(t *testing.T) {
	base := offload.Request{
		DrvPath: path("hello-2.12.1"), Name: "hello-2.12.1", Stem: "hello", System: "x86_64-linux", Builder: "/bin/sh", Outputs: []string{"out"},
	}
	tests := []struct {
		name, content string
		change        func(r *offload.Request)
	}{
		{"bare", aterm(plainOutput, "", "/bin/sh", "name=hello-2.12.1"), func(*offload.Request) {}},
		{"package", aterm(plainOutput, "", "/bin/sh", "name=hello-2.12.1", "pname=hello", "version=2.12.1"), func(r *offload.Request) {
			r.PName, r.Version = "hello", "2.12.1"
		}},
		{
			"flags", aterm(plainOutput, "", "/bin/sh", "allowSubstitutes=", "doCheck=1", "enableParallelBuilding=1", "name=hello-2.12.1", "preferLocalBuild=1"),
			func(r *offload.Request) {
				r.NoSubstitutes, r.Checks, r.Parallel, r.PreferLocal = true, true, true, true
			},
		},
		{"features", aterm(plainOutput, "", "/bin/sh", "name=hello-2.12.1", "requiredSystemFeatures=kvm  big-parallel kvm"), func(r *offload.Request) {
			r.Features = []string{"big-parallel", "kvm"}
		}},
		{"structured", aterm(plainOutput, "", "/bin/sh", `__json={"name":"hello-2.12.1","pname":"hello","requiredSystemFeatures":["kvm"],"enableParallelBuilding":true,"dontBuild":"1","allowSubstitutes":false,"version":null}`), func(r *offload.Request) {
			r.PName, r.Features, r.Parallel, r.DontBuild, r.NoSubstitutes, r.StructuredAttrs = "hello", []string{"kvm"}, true, true, true, true
		}},
		{"fixed", aterm(`("out","/nix/store/`+hash+`-hello-2.12.1","r:sha256","00ff")`, "", "builtin:fetchurl", "name=hello-2.12.1"), func(r *offload.Request) {
			r.Builder, r.Fixed = "builtin:fetchurl", &offload.FixedOutput{Algorithm: "sha256", Hash: "00ff", Recursive: true}
		}},
		{"content-addressed", aterm(`("dev","","r:sha256",""),("out","","r:sha256","")`, "", "/bin/sh", "name=hello-2.12.1"), func(r *offload.Request) {
			r.ContentAddressed, r.Outputs = true, []string{"dev", "out"}
		}},
		{"deferred", aterm(`("out","","","")`, "", "/bin/sh", "name=hello-2.12.1"), func(*offload.Request) {}},
		{"inputs", aterm(plainOutput, strings.Join([]string{input("cargo-auditable-0.6"), input("gcc-wrapper-14.2.1"), input("ghc-9.8.2-with-packages"), input("google-1"), input("rustc-wrapper-1.8")}, ","), "/bin/sh", "name=hello-2.12.1"), func(r *offload.Request) {
			r.InputDrvs, r.Toolchains = 5, []string{"cc", "ghc", "rust"}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := base
			tt.change(&want)
			got, err := drv.Parse(path("hello-2.12.1"), strings.NewReader(tt.content))
			require.NoError(t, err)
			require.Equal(t, &want, got)
		})
	}
}

func TestParseRefuses(t *testing.T) {
	whole := aterm(plainOutput, input("gcc-1"), "/bin/sh", "name=hello-2.12.1")
	for i := range len(whole) {
		_, err := drv.Parse(path("hello-2.12.1"), strings.NewReader(whole[:i]))
		require.Error(t, err, "the first %d bytes", i)
	}
	tests := []struct{ name, content, want string }{
		{"no JSON", aterm(plainOutput, "", "/bin/sh", `__json={`), "drv: "},
		{"JSON that is no object", aterm(plainOutput, "", "/bin/sh", `__json=null`), "malformed"},
		{"a list that is none", aterm(plainOutput, "", "/bin/sh", `__json={"name":"a","requiredSystemFeatures":{}}`), "requiredSystemFeatures is of the wrong kind"},
		{"a flag that is none", aterm(plainOutput, "", "/bin/sh", `__json={"name":"a","doCheck":[]}`), "doCheck is of the wrong kind"},
		{"no builder", aterm(plainOutput, "", ""), "are missing"},
		{"no outputs", aterm("", "", "/bin/sh"), "are missing"},
		{"a long word", aterm(plainOutput, "", "/bin/sh", "version="+strings.Repeat("1", 257)), "a word of 257 bytes"},
		{"a long file", aterm(plainOutput, "", "/bin/sh", "x="+strings.Repeat("x", drv.MaxSize)), "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := drv.Parse(path("hello-2.12.1"), strings.NewReader(tt.content))
			require.ErrorContains(t, err, tt.want)
		})
	}
	_, err := drv.Read(filepath.Join(t.TempDir(), "none"), "")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = drv.Read(t.TempDir(), "")
	require.ErrorContains(t, err, "no regular file")
}

func TestStem(t *testing.T) {
	for name, want := range map[string]string{
		"hello-2.12.1": "hello", "gcc-wrapper-14.2.1.20250322": "gcc-wrapper", "libfoo3-1.0": "libfoo",
		"2048-1.0": "2048-1.0", "hello": "hello", "hello-1.0rc1": "hello-1.0rc", "": "",
	} {
		require.Equal(t, want, drv.Stem(name), name)
	}
}

const expression = `
let
  base = { name = "thing-1.2"; system = "x86_64-linux"; builder = "/bin/sh"; };
  tool = derivation (base // { name = "rustc-wrapper-1.89.0"; });
  ca = derivation (base // { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; outputs = [ "out" "dev" ]; });
in {
  plain = derivation (base // { pname = "thing"; version = "1.2"; preferLocalBuild = true; allowSubstitutes = false; inherit tool; });
  structured = derivation (base // { __structuredAttrs = true; pname = "thing"; requiredSystemFeatures = [ "kvm" "big-parallel" ]; enableParallelBuilding = true; text = "a\n\"\\b"; });
  features = derivation (base // { requiredSystemFeatures = [ "kvm" "big-parallel" ]; doCheck = true; });
  fixed = derivation (base // { outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; outputHashMode = "recursive"; outputHashAlgo = "sha256"; });
  fetch = derivation { name = "thing-1.2"; system = "builtin"; builder = "builtin:fetchurl"; url = "http://127.0.0.1/x"; outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; outputHashMode = "flat"; outputHashAlgo = "sha256"; };
  inherit ca;
  deferred = derivation (base // { inherit ca; });
}`

func TestDerivationsOfRealNix(t *testing.T) {
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	base := offload.Request{Name: "thing-1.2", Stem: "thing", System: "x86_64-linux", Builder: "/bin/sh", Outputs: []string{"out"}}
	tests := map[string]func(r *offload.Request){
		"plain": func(r *offload.Request) {
			r.PName, r.Version, r.PreferLocal, r.NoSubstitutes, r.InputDrvs, r.Toolchains = "thing", "1.2", true, true, 1, []string{"rust"}
		},
		"structured": func(r *offload.Request) {
			r.PName, r.StructuredAttrs, r.Features, r.Parallel = "thing", true, []string{"big-parallel", "kvm"}, true
		},
		"features": func(r *offload.Request) { r.Features, r.Checks = []string{"big-parallel", "kvm"}, true },
		"fixed": func(r *offload.Request) {
			r.Fixed = &offload.FixedOutput{Algorithm: "sha256", Hash: empty, Recursive: true}
		},
		"fetch": func(r *offload.Request) {
			r.System, r.Builder, r.Fixed = "builtin", "builtin:fetchurl", &offload.FixedOutput{Algorithm: "sha256", Hash: empty}
		},
		"ca":       func(r *offload.Request) { r.ContentAddressed, r.Outputs = true, []string{"dev", "out"} },
		"deferred": func(r *offload.Request) { r.InputDrvs = 1 },
	}
	for _, nix := range realnix.All(t) {
		file := filepath.Join(nix.TempDir(t), "x.nix")
		require.NoError(t, os.WriteFile(nix.Host(file), []byte(expression), 0o644))
		for name, change := range tests {
			t.Run(nix.Release+"/"+name, func(t *testing.T) {
				drvPath := nix.Run(t, "nix-instantiate", file, "-A", name)
				got, err := drv.Read(nix.Host(drvPath), drvPath)
				require.NoError(t, err)
				want := base
				change(&want)
				want.DrvPath = drvPath
				require.Equal(t, &want, got)
			})
		}
	}
}

func TestInputsAreWhatRealNixBuildsFrom(t *testing.T) {
	const chain = `let make = name: attrs: derivation (attrs // { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; });
	source = builtins.toFile "source" "text"; other = make "other" { outputs = [ "out" "dev" ]; };
	in make "top" { inherit source; a = make "a" { }; dev = other.dev; ca = make "ca" { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }; }`
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			top := nix.Run(t, "nix-instantiate", "--option", "experimental-features", "ca-derivations", "-E", chain)
			var want []string
			for _, path := range strings.Fields(nix.Run(t, "nix-store", "--query", "--references", top)) {
				switch {
				case strings.HasSuffix(path, "-other.drv"):
					outputs := strings.Fields(nix.Run(t, "nix-store", "--query", "--outputs", path))
					want = append(want, outputs[slices.IndexFunc(outputs, func(p string) bool { return strings.HasSuffix(p, "-dev") })])
				case strings.HasSuffix(path, "-a.drv"):
					want = append(want, nix.Run(t, "nix-store", "--query", "--outputs", path))
				case !strings.HasSuffix(path, ".drv"):
					want = append(want, path)
				}
			}
			got, err := drv.Inputs(nix.Root, top)
			require.NoError(t, err)
			require.ElementsMatch(t, want, got)
			require.Len(t, got, 3)
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(aterm(plainOutput, input("gcc-1"), "/bin/sh", "name=hello-2.12.1")))
	f.Add([]byte(aterm(plainOutput, "", "/bin/sh", `__json={"name":"a","requiredSystemFeatures":["kvm"]}`)))
	f.Add([]byte(aterm(`("out","","r:sha256","")`, "", "builtin:x", "name=a")))
	f.Fuzz(func(t *testing.T, content []byte) {
		r, err := drv.Parse(path("x-1"), bytes.NewReader(content))
		if err != nil {
			require.Nil(t, r)
			return
		}
		require.NotEmpty(t, r.Outputs)
		_, _ = r.Classify(offload.Estimate{}, 0)
		_ = r.Prior()
	})
}
