// Package debian turns this machine's installed Debian packages into Nix packages, for tests and benchmarks that need
// a closure of real files where no nixpkgs can be had.
//
// [ClosureExpression] is what there is: a Nix expression that whoever has a Nix builds.
package debian

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

type debPackage struct {
	version string
	depends []string
}

var (
	notNameChars = regexp.MustCompile(`[^A-Za-z0-9.+_-]`)
	dependEnds   = regexp.MustCompile(`[ (:|]`)
)

// ClosureExpression writes a Nix expression whose attribute top refers to n packages of the Debian root, each built
// by copying the files that dpkg lists for it.
func ClosureExpression(root string, n int) (string, error) {
	packages, names, err := installedPackages(filepath.Join(root, "var/lib/dpkg/status"))
	if err != nil {
		return "", err
	}
	order := dependencyOrder(packages, names)
	order = order[:min(n, len(order))]
	chosen := make(map[string]bool)
	for _, p := range order {
		chosen[p] = true
	}
	var b strings.Builder
	b.WriteString(`let mk = name: list: deps: derivation {
  inherit name list deps; system = "x86_64-linux"; builder = "/bin/bash";
  args = [ "-c" ''
    PATH=/usr/bin:/bin; mkdir -p $out/nix-support; echo $deps > $out/nix-support/deps; cd /
    cat $list | sed -n -E 's,^/(bin|sbin|lib[0-9]*)/,/usr/\1/,; s,^/(.+),\1,p' | sort -u |
      while IFS= read -r f; do if [ -L "$f" ] || [ -f "$f" ]; then echo "$f"; fi; done |
      tar -cf - --no-recursion --mode=u+rw,ug-s -T - 2>/dev/null | tar -xf - -C $out
    true'' ]; }; in rec {
`)
	done := make(map[string]bool)
	var top []string
	for _, p := range order {
		var deps []string
		for _, d := range packages[p].depends {
			if done[d] {
				deps = append(deps, attribute(d))
			}
		}
		name := notNameChars.ReplaceAllString(p+"-"+packages[p].version, "-")
		fmt.Fprintf(&b, "  %s = mk %q %q [ %s ];\n", attribute(p), name, fileLists(root, p), strings.Join(deps, " "))
		done[p] = true
		top = append(top, attribute(p))
	}
	fmt.Fprintf(&b, "  top = mk \"closure-top\" \"\" [ %s ];\n}\n", strings.Join(top, " "))
	return b.String(), nil
}

// attribute turns a package's name into a Nix identifier.
func attribute(p string) string { return "p_" + strings.NewReplacer("+", "_P", ".", "_D").Replace(p) }

func fileLists(root, p string) string {
	lists, _ := filepath.Glob(filepath.Join(root, "var/lib/dpkg/info", p+":*.list"))
	if plain := filepath.Join(root, "var/lib/dpkg/info", p+".list"); len(lists) == 0 {
		lists = []string{plain}
	}
	return strings.Join(lists, " ")
}

func installedPackages(status string) (map[string]*debPackage, []string, error) {
	f, err := os.Open(status)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	packages := make(map[string]*debPackage)
	var names []string
	var current *debPackage
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ": ")
		switch key {
		case "Package":
			current = &debPackage{version: "0"}
			packages[value] = current
			names = append(names, value)
		case "Version":
			current.version = value
		case "Depends", "Pre-Depends":
			for d := range strings.SplitSeq(value, ",") {
				current.depends = append(current.depends, dependEnds.Split(strings.TrimSpace(d), 2)[0])
			}
		}
	}
	return packages, names, lines.Err()
}

// dependencyOrder lists each package after those that it depends on; a cycle is broken where it closes.
func dependencyOrder(packages map[string]*debPackage, names []string) []string {
	var order []string
	seen := make(map[string]bool)
	var visit func(string)
	visit = func(p string) {
		if seen[p] || packages[p] == nil {
			return
		}
		seen[p] = true
		for _, d := range packages[p].depends {
			visit(d)
		}
		order = append(order, p)
	}
	for _, p := range names {
		visit(p)
	}
	return order
}
