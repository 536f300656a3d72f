package machines_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/machines"
)

var cannotBuild = regexp.MustCompile(`cannot build on '(?:\\u001b\[[0-9;]*m)?ssh://([a-z0-9]+)`)

// Nix's own hook chooses among machines that none can be reached: it tries the best, then the best of the others, …
// Slots are taken as other hooks of its take them, by locking their files.
func TestPlainFormulaChoosesAsRealNixDoes(t *testing.T) {
	speeds := map[string][]string{"2.8": {"1"}, "2.26": {"0", "0.5", "1", "2", "3.5"}, "2.34": {"0", "0.5", "1", "2", "3.5"}}
	features := []string{"-", "kvm", "big-parallel,kvm", "gpu"}
	for _, nix := range realnix.All(t) {
		for seed := range uint64(12) {
			t.Run(fmt.Sprintf("%s/%d", nix.Release, seed), func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				var text strings.Builder
				for i := range 5 {
					fmt.Fprintf(&text, "m%d x86_64-linux%s - %d %s %s %s\n", i, []string{"", ",i686-linux"}[r.IntN(2)], r.IntN(4),
						speeds[nix.Release][r.IntN(len(speeds[nix.Release]))], features[r.IntN(4)], []string{"-", "-", "-", "kvm"}[r.IntN(4)])
				}
				system := []string{"x86_64-linux", "i686-linux", "builtin"}[r.IntN(3)]
				var wanted []string
				if r.IntN(2) == 0 {
					wanted = []string{"kvm"}
				}
				requireSameChoices(t, nix, r, text.String(), system, wanted)
			})
		}
	}
}

func requireSameChoices(t *testing.T, nix realnix.Nix, r *rand.Rand, builders, system string, features []string) {
	t.Helper()
	list, err := machines.Parse(builders, nil)
	require.NoError(t, err)
	state := nix.TempDir(t)
	loaded := make([]offload.Loaded, len(list))
	for i := range list {
		load := 0
		if list[i].MaxJobs > 0 {
			load = r.IntN(list[i].MaxJobs + 1)
		}
		loaded[i] = offload.Loaded{Machine: &list[i], Load: load}
		for slot := range load {
			lockSlot(t, filepath.Join(nix.Host(state), "current-load"), fmt.Sprintf("ssh:__%s-%d", list[i].Host, slot))
		}
	}
	out := stockHook(t, nix, builders, system, features, "NIX_STATE_DIR="+state, "PATH=/nosuch")
	var theirs, ours []string
	for _, m := range cannotBuild.FindAllStringSubmatch(out, -1) {
		theirs = append(theirs, m[1])
	}
	verdict, name := offload.PlainFormula(loaded, system, features, false)
	for verdict == offload.Accept {
		ours = append(ours, name)
		for i := range loaded {
			if loaded[i].Machine.Name == name {
				loaded = append(loaded[:i:i], loaded[i+1:]...)
				break
			}
		}
		verdict, name = offload.PlainFormula(loaded, system, features, false)
	}
	require.Equal(t, theirs, ours, "builders:\n%s%s %v\nNix says: %s", builders, system, features, out)
	require.Contains(t, out, "# "+string(verdict))
}

// lockSlot takes a slot as a hook that builds does.
func lockSlot(t *testing.T, dir, name string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	f, err := os.Create(filepath.Join(dir, name))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
}
