// Package realnix runs unmodified Nix releases in tests, side by side on one Debian machine.
//
// `.ci/real-nix setup` installs them: Nix 2.8 is the machine's own,
// 2.26 and 2.34 live in Debian roots of their own below /opt/real-nix (or $NIXTRAP_REAL_NIX),
// each with its own /nix, on the machine's network.
// A test that asks for a release that is not there is skipped with a line that says so;
// with NIXTRAP_REQUIRE_NIX set it fails instead.
package realnix

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// suites maps a release to the Debian suite that has it; "" is the machine's own.
var suites = map[string]string{"2.8": "", "2.26": "trixie", "2.34": "sid"}

// Releases are the releases that tests run against, oldest first.
func Releases() []string { return []string{"2.8", "2.26", "2.34"} }

// Nix is one release. Its commands run as the calling user (root where the release has a root folder of its own).
type Nix struct {
	// Release is "2.8", "2.26" or "2.34".
	Release string
	// Root is the release's root folder as this process sees it: "/" for 2.8.
	Root string

	home string // the test's private HOME, as the commands see it
}

// All returns every release.
func All(t testing.TB) []Nix {
	t.Helper()
	var all []Nix
	for _, release := range Releases() {
		all = append(all, Get(t, release))
	}
	return all
}

// Get returns one release with a private HOME, so that no test sees another's narinfo cache.
func Get(t testing.TB, release string) Nix {
	t.Helper()
	suite, ok := suites[release]
	if !ok {
		t.Fatalf("realnix: no release %q", release)
	}
	n := Nix{Release: release, Root: "/"}
	if suite != "" {
		n.Root = filepath.Join(base(), suite)
		if os.Geteuid() != 0 {
			missing(t, "Nix "+release+" lives in a root of its own, and only root may enter it")
		}
		if _, err := os.Stat(filepath.Join(n.Root, "proc/self")); err != nil {
			missing(t, "no Nix "+release+" here: run .ci/real-nix setup")
		}
	}
	if _, err := os.Stat(filepath.Join(n.Root, "usr/bin/nix")); err != nil {
		missing(t, "no Nix "+release+" here: run .ci/real-nix setup")
	}
	n.home = n.TempDir(t)
	return n
}

func base() string {
	if dir := os.Getenv("NIXTRAP_REAL_NIX"); dir != "" {
		return dir
	}
	return "/opt/real-nix"
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("NIXTRAP_REQUIRE_NIX") != "" {
		t.Fatalf("realnix: %s (NIXTRAP_REQUIRE_NIX is set)", why)
	}
	t.Skipf("realnix: %s", why)
}

// Host translates a path inside the release's root into one of this process's.
func (n Nix) Host(inside string) string { return filepath.Join(n.Root, inside) }

// TempDir makes a folder that goes with the test, and returns its path inside the release's root.
// Read-only store paths below it are removed too.
func (n Nix) TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(n.Host("/tmp"), "nixtrap-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeAll(t, dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return "/" + strings.TrimPrefix(strings.TrimPrefix(dir, n.Root), "/")
}

// removeAll is os.RemoveAll for trees with read-only folders, which only root may empty as they are.
func removeAll(t testing.TB, dir string) {
	_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_ = os.Chmod(p, 0o755)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("realnix: %v", err)
	}
}

// Command prepares one of the release's programs: "nix", "nix-store", "nix-build", "nix-daemon" …
// Its environment has a private HOME and a NIX_CONFIG without sandbox, substituters or build users; add to cmd.Env
// or pass --option to change that. The test's end kills it.
func (n Nix) Command(t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/"+program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{
		"HOME=" + n.home,
		"USER=root",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LANG=C.UTF-8",
		"NIX_CONFIG=" + strings.Join([]string{
			"sandbox = false",
			"experimental-features = nix-command flakes ca-derivations",
			"build-users-group =",
			"substituters =",
		}, "\n"),
	}
	if n.Root != "/" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: n.Root}
	}
	return cmd
}

// Run runs a command to its end and returns what it printed on stdout, white space trimmed.
// A failure fails the test with the command's stderr.
func (n Nix) Run(t testing.TB, program string, args ...string) string {
	t.Helper()
	cmd := n.Command(t, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("Nix %s: %s %s: %v\n%s", n.Release, program, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(stdout.String())
}
