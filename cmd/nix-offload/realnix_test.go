package main_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload/hook"
)

func TestBuildGoesWhereTheCoordinatorSays(t *testing.T) {
	everywhere(t, func(t *testing.T, r *rig) {
		q := r.coordinate(t, func(_ hook.Settings, try *hook.Try) (*hook.Answer, error) {
			return &hook.Answer{Verdict: hook.Accept, Line: r.line(t, "lease-1"), Name: "big machine (lease 1)",
				Messages: []hook.Message{{Level: 0, Text: "because it is big"}}}, nil
		})
		got := r.build(t, "where", "echo a line of the log; "+r.whereScript(), "")
		require.Zero(t, got.status, got.stderr)
		require.Equal(t, "builder", r.read(t, got.stdout))
		require.Contains(t, got.stderr, "on 'big machine (lease 1)'")
		require.Contains(t, got.stderr, "because it is big")
		require.Contains(t, got.stderr, "a line of the log")
		require.Contains(t, r.run(t, "nix", "log", got.stdout).stdout, "a line of the log")
		require.Len(t, q.all(), 1)
		t.Log(got.took, got.stderr)
	})
}
