package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/bench/internal/program"
	"github.com/voidnxlab/nixtrap/bench/internal/workload"
)

func TestMisuse(t *testing.T) {
	for name, args := range map[string][]string{
		"argument":      {"x"},
		"no flag":       {"--nope"},
		"rounds":        {"--rounds", "0"},
		"workload":      {"--workload", "closure,nope"},
		"connections":   {"--connections", "1,x"},
		"unknown peer":  {"--peer", "nope=/bin/true"},
		"unusable peer": {"--peer", "attic=/bin/true"},
		"absent peer":   {"--peer", "harmonia=/nonexistent/harmonia"},
	} {
		err := run(t.Context(), args, io.Discard, io.Discard)
		var misuse program.UsageError
		require.ErrorAs(t, err, &misuse, name)
	}
	var help bytes.Buffer
	require.ErrorIs(t, run(t.Context(), []string{"--help"}, io.Discard, &help), flag.ErrHelp)
	require.Contains(t, help.String(), "-peer NAME=PROGRAM")
}

func TestWorkloadsOfFlags(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want []string
	}{
		{"default", nil, []string{"closure", "small"}},
		{"chosen", []string{"--workload", "small"}, []string{"small"}},
		{"mode", []string{"--memory"}, []string{"memory"}},
		{"mode and more", []string{"--first-request", "--workload", "closure"}, []string{"closure", "first-request"}},
	} {
		o, err := parseOptions(test.args, io.Discard)
		require.NoError(t, err, test.name)
		require.Equal(t, test.want, o.workloads, test.name)
	}
}

// TestShootout is a small run with real servers.
func TestShootout(t *testing.T) {
	missing := workload.Available()
	if _, err := findNginx("nginx"); err != nil {
		missing = err
	}
	if missing != nil {
		if os.Getenv("NIXTRAP_REQUIRE_NIX") != "" {
			t.Fatalf("%v (NIXTRAP_REQUIRE_NIX is set)", missing)
		}
		t.Skip(missing)
	}
	out := t.TempDir()
	var stdout, stderr bytes.Buffer
	err := run(context.Background(), []string{
		"--rounds", "2", "--packages", "5", "--small-files", "300", "--connections", "1,4",
		"--out", out, "--work", t.TempDir(),
	}, &stdout, &stderr)
	require.NoError(t, err, "%s", stderr.String())
	for _, line := range []string{
		"closure, absent narinfo", "small files, NAR c4", flatZstd, dump,
		"closure, NAR c1: narserved against nginx .nar",
	} {
		require.Contains(t, stdout.String(), line)
	}
	text, err := os.ReadFile(filepath.Join(out, "shootout.txt"))
	require.NoError(t, err)
	require.Contains(t, string(text), "Nix: nix (Nix)")
	for _, name := range []string{"shootout.csv", "shootout.svg"} {
		require.FileExists(t, filepath.Join(out, name))
	}
}
