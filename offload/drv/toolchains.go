package drv

import (
	"slices"
	"strings"
)

// toolchains names the kinds of compilers among the inputs, by what nixpkgs calls their derivations.
// Names that begin alike count: "rustc-wrapper-1.89.0" is rust.
func toolchains(inputs map[string][]string) []string {
	var kinds []string
	for path := range inputs {
		if kind := toolchain(nameOf(path)); kind != "" && !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return kinds
}

func toolchain(name string) string {
	// What follows a toolchain's name is its version, or one of nixpkgs' suffixes: no other package's name.
	word := name
	if i := strings.IndexFunc(name, func(r rune) bool { return r >= '0' && r <= '9' }); i > 0 {
		word = name[:i]
	}
	word = strings.TrimRight(word, "-.")
	for _, suffix := range []string{"-wrapper", "-with-packages", "-setup-hook", "-hook", ".sh"} {
		word = strings.TrimSuffix(word, suffix)
	}
	switch word {
	case "rustc", "cargo", "cargo-auditable", "rust-default", "rust-minimal", "cargo-build-hook", "cargo-build":
		return "rust"
	case "ghc":
		return "ghc"
	case "gcc", "clang":
		return "cc"
	case "llvm", "clang-unwrapped":
		return "llvm"
	case "cmake", "meson", "go", "nodejs", "ocaml", "swift":
		return word
	case "bazel", "bazel_":
		return "bazel"
	case "qtbase", "qtbase-everywhere-src", "qtwebengine":
		return "qt"
	case "cuda_nvcc", "cudatoolkit", "cuda-nvcc":
		return "cuda"
	case "openjdk", "openjdk-headless", "jdk", "maven", "gradle":
		return "java"
	}
	return ""
}
