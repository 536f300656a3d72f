package main_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
)

// TestNixsOwnFunctionalTests runs the tests of remote building that Nix has of its own, of each release's source, with its
// stock hook and with ours in its place: all that pass with the one pass with the other.
//
// NIXTRAP_NIX_SOURCE names a git repository of Nix with its tags. A static busybox must be installed (Debian's
// busybox-static), for the tests build in sandboxes without anything else, and this must run as root.
func TestNixsOwnFunctionalTests(t *testing.T) {
	source := os.Getenv("NIXTRAP_NIX_SOURCE")
	if source == "" {
		t.Skip("NIXTRAP_NIX_SOURCE names no source of Nix")
	}
	busybox := asBusybox(t)
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			s := newSuite(t, nix, source, busybox)
			names, err := filepath.Glob(filepath.Join(nix.Host(s.dir), "src", "*build-remote*.sh"))
			require.NoError(t, err)
			passed := 0
			for _, name := range names {
				name = strings.TrimSuffix(filepath.Base(name), ".sh")
				if text, err := os.ReadFile(filepath.Join(nix.Host(s.dir), "src", name+".sh")); err != nil || !bytes.HasPrefix(text, []byte("source common.sh")) &&
					!bytes.Contains(text, []byte("\nsource common.sh")) {
					continue // it is sourced by others
				}
				stock, said := s.run(t, name, nil)
				if stock != 0 {
					t.Logf("%s: the stock hook ends it with %d (77: it is skipped): %s", name, stock, lastLine(said))
					continue
				}
				ours, said := s.run(t, name, []string{"NIX_CONFIG=build-hook = " + s.dir + "/hook"})
				require.Zero(t, ours, "%s: %s", name, said)
				passed++
			}
			calls, err := os.ReadFile(filepath.Join(nix.Host(s.dir), "calls"))
			require.NoError(t, err, "our hook was never called")
			t.Logf("%d tests pass with both; our hook was called %d times", passed, bytes.Count(calls, []byte("\n")))
			require.NotZero(t, passed)
		})
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// suite is a release's functional tests, unpacked below the release's root.
type suite struct {
	nix realnix.Nix
	dir string // inside
}

func newSuite(t *testing.T, nix realnix.Nix, source, busybox string) *suite {
	t.Helper()
	s := &suite{nix: nix, dir: nix.TempDir(t)}
	host := nix.Host(s.dir)
	version := strings.Fields(nix.Run(t, "nix", "--version"))[2]
	archive := exec.CommandContext(t.Context(), "sh", "-c", fmt.Sprintf(
		`mkdir -p %[1]s/unpacked %[1]s/tmp && git -C %[2]s archive %[3]s tests | tar -x -C %[1]s/unpacked && cd %[1]s/unpacked &&
		if [ -d tests/functional ]; then mv tests/functional ../src; else mv tests ../src; fi`, host, source, version))
	out, err := archive.CombinedOutput()
	require.NoError(t, err, "%s", out)
	machine := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686"}[runtime.GOARCH]
	fill := strings.NewReplacer("@bash@", "/bin/bash", "@bindir@", "/usr/bin", "@coreutils@", "/usr/bin", "@dot@", "",
		"@sandbox_shell@", s.dir+"/busybox", "@PACKAGE_VERSION@", version, "@system@", machine+"-linux")
	require.NoError(t, filepath.WalkDir(host+"/src", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".in") {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(strings.TrimSuffix(name, ".in"), []byte(fill.Replace(string(text))), 0o755)
	}))
	program, err := program()
	require.NoError(t, err)
	for name, from := range map[string]string{"busybox": busybox, "nix-offload-hook": program} {
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(host, name), text, 0o755))
	}
	hook := fmt.Sprintf("#!/bin/sh\necho call >> %[1]s/calls\nexec %[1]s/nix-offload-hook \"$@\"\n", s.dir)
	require.NoError(t, os.WriteFile(filepath.Join(host, "hook"), []byte(hook), 0o755))
	return s
}

// limit is for how long one of Nix's tests may run, in seconds.
const limit = "300"

// enterRoot makes a folder the root of a mount namespace: nobody in a chroot may make the user namespaces of sandboxes.
const enterRoot = `mount --make-rprivate /
if [ "$1" != / ]; then mount --rbind "$1" "$1"; cd "$1"; mkdir -p .old; pivot_root . .old; umount -l .old; fi
cd "$2/src"
if [ -e init.sh ]; then bash -e ./init.sh; fi # before 2.16 each test wants it before it
exec timeout "$3" bash -e "./$4.sh"`

// run runs one of the tests and returns its exit status and what it said.
func (s *suite) run(t *testing.T, name string, env []string) (status int, said string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "unshare", "-m", "bash", "-c", enterRoot, "enter", s.nix.Root, s.dir,
		limit, name)
	cmd.Env = append([]string{
		"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/tmp", "USER=root", "TMPDIR=" + s.dir + "/tmp", "TEST_NAME=" + name,
		"TEST_SUITE_NAME=main", "NIX_STORE=", "NIX_REMOTE_=", "_NIX_TEST_SOURCE_DIR=" + s.dir + "/src", "_NIX_TEST_BUILD_DIR=" + s.dir + "/src",
	}, env...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// asBusybox makes busybox a static program that is busybox by whatever name it is called: Debian's is not, and in a store
// it has a hash before its name.
func asBusybox(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("no busybox here: install busybox-static")
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "busybox.bin"), text, 0o755))
	main, err := os.ReadFile("testdata/busybox/main.go")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), main, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module busybox\n\ngo 1.24\n"), 0o644))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", "busybox", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return filepath.Join(dir, "busybox")
}
