package realnix

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/voidnxlab/nixtrap/internal/debian"
)

// Closure imports the files of n of this machine's Debian packages into Nix 2.8's store (the machine's /nix/store),
// one store path a package, references as the packages depend, and returns the path that refers to them all.
// The first call on a machine takes about half a minute; later ones find the paths there.
func Closure(t testing.TB, n int) string {
	t.Helper()
	nix := Get(t, "2.8")
	expr, err := debian.ClosureExpression("/", n)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(nix.TempDir(t), "closure.nix")
	if err := os.WriteFile(nix.Host(file), []byte(expr), 0o644); err != nil {
		t.Fatal(err)
	}
	return nix.Run(t, "nix-build", file, "-A", "top", "--no-out-link")
}
