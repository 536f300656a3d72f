package coordinator_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/coordinator"
	"github.com/voidnxlab/nixtrap/offload/hook"
)

// unreachable is a transport to machines that are not asked anything here.
type unreachable struct{}

func (unreachable) Open(context.Context, *offload.Machine, string, io.Writer) (io.ReadWriteCloser, error) {
	return nil, errors.New("not reached")
}

func (unreachable) Breaker(*offload.Machine) offload.Breaker { return offload.BreakerClosed }

// What this machine can build its Nix says, and not who described it to the coordinator.
func TestThisMachineIsAsItsNixSays(t *testing.T) {
	root := t.TempDir()
	const path = "/nix/store/00000000000000000000000000000000-vm.drv"
	require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, path), []byte(
		`Derive([("out","/nix/store/11111111111111111111111111111111-vm","","")],[],[],"x86_64-linux","/bin/sh",[],[("name","vm")])`), 0o644))
	c, err := coordinator.New(coordinator.Options{
		Machines:  []offload.Machine{{Name: "one", Systems: []string{"x86_64-linux"}, Features: []string{"kvm"}, MaxJobs: 9, SpeedFactor: 1}},
		Local:     &offload.Machine{Name: "here", Systems: []string{"x86_64-linux"}, Features: []string{"kvm"}, MaxJobs: 1, SpeedFactor: 1},
		Policy:    &offload.Policy{Mode: offload.ModeLocalFirst},
		Transport: unreachable{}, StoreRoot: root, ShimDir: t.TempDir(), ShimProgram: "/bin/false", HostRoot: root,
	})
	require.NoError(t, err)
	try := &hook.Try{Willing: true, System: "x86_64-linux", Drv: path, Features: []string{"kvm"}}
	for _, row := range []struct {
		settings hook.Settings
		verdict  hook.Verdict
	}{
		{hook.Settings{}, hook.Decline}, // it builds itself
		{hook.Settings{{Name: "system-features", Value: "benchmark kvm"}}, hook.Decline},
		{hook.Settings{{Name: "system-features", Value: "benchmark"}}, hook.Accept},
		{hook.Settings{{Name: "system", Value: "aarch64-linux"}, {Name: "extra-platforms", Value: "i686-linux x86_64-linux"}}, hook.Decline},
		{hook.Settings{{Name: "system", Value: "aarch64-linux"}, {Name: "extra-platforms", Value: ""}}, hook.Accept},
		{hook.Settings{{Name: "max-jobs", Value: "0"}}, hook.Accept},
	} {
		answer, err := c.Decide(t.Context(), row.settings, try)
		require.NoError(t, err)
		require.Equal(t, row.verdict, answer.Verdict, "%v", row.settings)
	}
}
