package target_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/bench/internal/target"
)

// script writes a program for sh.
func script(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	require.NoError(t, os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755))
	return file
}

func TestPeersThatCannotBeUsedAreClearErrors(t *testing.T) {
	for spec, want := range map[string]string{
		"harmonia":                       "want NAME=PROGRAM",
		"=x":                             "want NAME=PROGRAM",
		"harmonia=":                      "want NAME=PROGRAM",
		"harmonia=/nonexistent/harmonia": "no such file",
		"attic=/bin/true":                "attic push",
		"ncps=/bin/true":                 "upstream",
		"other=/bin/true":                "none that can be started (harmonia, nix-serve)",
	} {
		_, err := target.Peer(spec)
		require.ErrorContains(t, err, want, spec)
	}
	p, err := target.Peer("other=http://127.0.0.1:1/cache/")
	require.NoError(t, err)
	s, err := target.Start(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:1", s.Addr)
	require.Equal(t, "/cache", s.Path)
	require.NoError(t, s.Close())
	_, err = target.Start(t.Context(), target.Program{Name: "x", URL: "http://nothing"})
	require.ErrorContains(t, err, "http://HOST:PORT")
}

func TestServerThatDoesNotServeIsAnErrorWithItsLog(t *testing.T) {
	p, err := target.Peer("nix-serve=" + script(t, "echo no store here >&2; exit 3"))
	require.NoError(t, err)
	_, err = target.Start(t.Context(), p)
	require.ErrorContains(t, err, "it ended instead of serving")
	require.ErrorContains(t, err, "no store here")
}

func TestNarservedsFlags(t *testing.T) {
	n, err := target.NewNarserved(t.Context(), script(t, `echo "Flags:
  --listen ADDRESS
        ADDRESS to serve on, as --other says
  --unsigned"`))
	require.NoError(t, err)
	require.True(t, n.Has("listen"))
	require.True(t, n.Has("unsigned"))
	require.False(t, n.Has("other"))
	_, err = target.NewNarserved(t.Context(), script(t, "exit 1"))
	require.Error(t, err)
}

func TestNginxServesAFlatCache(t *testing.T) {
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		if os.Getenv("NIXTRAP_REQUIRE_NIX") != "" {
			t.Fatal("no nginx here (NIXTRAP_REQUIRE_NIX is set): apt install nginx-light")
		}
		t.Skip("no nginx here: apt install nginx-light")
	}
	cache := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(cache, "nix-cache-info"), []byte("StoreDir: /nix/store\n"), 0o644))
	s, err := target.Start(t.Context(), target.Nginx("nginx", nginx, cache))
	require.NoError(t, err)
	require.Positive(t, s.PID)
	c := s.Connect()
	defer c.Close()
	r, err := c.Get(t.Context(), "/nix-cache-info")
	require.NoError(t, err)
	require.Equal(t, 200, r.Status)
	r, err = c.Get(t.Context(), "/absent.narinfo")
	require.NoError(t, err)
	require.Equal(t, 404, r.Status, "on the same connection")
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "a second time")
	_, err = target.Start(t.Context(), target.Nginx("nginx", nginx, "/a folder"))
	require.ErrorContains(t, err, "cannot be told")
}
