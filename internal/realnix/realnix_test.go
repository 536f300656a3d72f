package realnix_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
)

func TestReleasesAreWhatTheySay(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			nix := realnix.Get(t, release)
			require.Contains(t, nix.Run(t, "nix", "--version"), " "+release+".")
		})
	}
}

func TestClosureHas150PathsThatReferToEachOther(t *testing.T) {
	top := realnix.Closure(t, 150)
	nix := realnix.Get(t, "2.8")
	paths := strings.Fields(nix.Run(t, "nix-store", "--query", "--requisites", top))
	require.Len(t, paths, 151, "150 packages and the path that refers to them")
	require.NotEmpty(t, nix.Run(t, "nix-store", "--query", "--references", paths[len(paths)-2]))
}
