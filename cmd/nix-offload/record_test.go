package main_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/offload/hook"
)

var update = flag.Bool("update", false, "record the sessions that package hook's tests replay")

// TestRecord writes down what each release says to a hook that declines a build and accepts the next.
func TestRecord(t *testing.T) {
	if !*update {
		t.Skip("records only with -update")
	}
	for _, release := range realnix.Releases() {
		r := newRig(t, release, false)
		r.write(t, "tee", fmt.Sprintf("#!/bin/sh\ntee %[1]s/session | %[1]s/nix-offload-hook \"$@\"\n", r.dir), 0o755)
		r.config = append(r.config, "build-hook = "+r.dir+"/tee")
		accept := r.accept(t)
		asked := 0
		r.coordinate(t, func(settings hook.Settings, try *hook.Try) (*hook.Answer, error) {
			asked++
			if asked == 1 {
				return always(hook.Decline)(settings, try)
			}
			return accept(settings, try)
		})
		got := r.build(t, "recorded", "cat $input > $out; echo > $dev", fmt.Sprintf(`
			outputs = [ "out" "dev" ]; requiredSystemFeatures = [ "big" ];
			input = derivation { name = "input"; system = builtins.currentSystem; builder = "/bin/sh";
				PATH = "/usr/bin:/bin"; args = [ "-c" %s ]; };`, nixString(r.whereScript())))
		require.Zero(t, got.status, got.stderr)
		session, err := os.ReadFile(r.nix.Host(r.dir + "/session"))
		require.NoError(t, err)
		file := filepath.Join("../../offload/hook/testdata/sessions", release)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, session, 0o644))
		require.NoError(t, os.Remove(r.coordinator))
	}
}
