package nixproto_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// passOn makes a server of a daemon behind it.
func passOn(d *realDaemon) func(context.Context, *nixproto.Session) (nixproto.Handler, error) {
	return func(ctx context.Context, s *nixproto.Session) (nixproto.Handler, error) {
		c, err := nixproto.Dial(ctx, d.socket, &nixproto.Options{OnEvent: s.Send})
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { c.Close() })
		return c, nil
	}
}

// try runs a command and returns its exit code and both its outputs.
func (d *realDaemon) try(t *testing.T, program string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := d.command(t, program, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		require.IsType(t, new(exec.ExitError), err)
	}
	return cmd.ProcessState.ExitCode(), strings.TrimSpace(out.String()), errs.String()
}

// TestRealClients lets every release work through a server of ours, behind which is a daemon of its own release.
func TestRealClients(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			nix := realnix.Get(t, release)
			w := newWorkshop(t, nix)
			b := emptyStore(t, nix)
			b.start(t)
			o := &nixproto.ServerOptions{Trust: nixproto.Trusted, NixVersion: "2.99-test"}
			s := serveNix(t, w.realDaemon, o, passOn(b))
			t.Run("remote builder", func(t *testing.T) { buildRemotely(t, w, b, s) })
			t.Run("store", func(t *testing.T) { useAsStore(t, w, b, s) })
			t.Run("copy", func(t *testing.T) { copyThere(t, w, b, s) })
		})
	}
}

func (w *workshop) buildAway(t *testing.T, s *served, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return w.try(t, "nix-build", append([]string{"/nix/default.nix", "--no-out-link", "--max-jobs", "0",
		"--builders", s.uri + " x86_64-linux - 8 1 ca-derivations"}, args...)...)
}

// buildRemotely is stock build-remote with our server as its builder.
func buildRemotely(t *testing.T, w *workshop, b *realDaemon, s *served) {
	code, stdout, stderr := w.buildAway(t, s, "-A", "plain", "-A", "fixed", "-A", "several", "-A", "dependent", "-A", "structured")
	require.Zero(t, code, stderr)
	require.Contains(t, stderr, "says plain\n")
	require.Contains(t, stderr, "twice\n")
	for _, path := range parsePaths(t, stdout) {
		require.Equal(t, b.pathInfo(t, path).NarHash, w.pathInfo(t, path).NarHash)
	}
	code, stdout, stderr = w.buildAway(t, s, "-A", "floating")
	require.Zero(t, code, stderr)
	require.Equal(t, b.pathInfo(t, parsePaths(t, stdout)[0]).NarHash, w.pathInfo(t, parsePaths(t, stdout)[0]).NarHash)

	code, _, stderr = w.buildAway(t, s, "-A", "failing")
	require.NotZero(t, code)
	require.Contains(t, stderr, "about to fail")
	require.Contains(t, stderr, "failed with exit code 3")
	log := w.run(t, "nix", "log", "-f", "/nix/default.nix", "plain")
	require.Contains(t, log, "says plain")
}

// useAsStore evaluates and builds in the server's store.
func useAsStore(t *testing.T, w *workshop, b *realDaemon, s *served) {
	code, _, stderr := w.try(t, "nix", "build", "--store", s.uri, "-f", "/nix/default.nix", "-L", "--no-link", "--rebuild", "plain")
	require.Zero(t, code, stderr)
	require.Contains(t, stderr, "says plain")
	code, _, stderr = w.try(t, "nix", "build", "--store", s.uri, "-f", "/nix/default.nix", "-L", "--no-link", "failing")
	require.NotZero(t, code)
	require.Contains(t, stderr, "about to fail")
	require.Contains(t, stderr, "failed with exit code 3")
	all := w.run(t, "nix", "path-info", "--store", s.uri, "--all")
	require.Equal(t, parsePaths(t, b.run(t, "nix", "path-info", "--all")), parsePaths(t, all))
}

func copyThere(t *testing.T, w *workshop, b *realDaemon, s *served) {
	path := w.run(t, "nix-store", "--add", "/bin/true")
	w.run(t, "nix", "copy", "--no-check-sigs", "--to", s.uri, path)
	require.Equal(t, b.pathInfo(t, parsePaths(t, path)[0]).NarHash, w.pathInfo(t, parsePaths(t, path)[0]).NarHash)
	other := b.run(t, "nix-store", "--add", "/bin/false")
	w.run(t, "nix", "copy", "--no-check-sigs", "--from", s.uri, other)
	require.Equal(t, b.pathInfo(t, parsePaths(t, other)[0]).NarHash, w.pathInfo(t, parsePaths(t, other)[0]).NarHash)
}
