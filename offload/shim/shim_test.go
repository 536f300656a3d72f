package shim_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/shim"
	"github.com/voidnxlab/nixtrap/store/nixproto"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

const (
	drvPath = narinfo.StorePath("/nix/store/00000000000000000000000000000000-thing.drv")
	outPath = narinfo.StorePath("/nix/store/11111111111111111111111111111111-thing")
)

// desk has machines one, two, … whose daemons are in this process.
type desk struct {
	daemons []*daemon
	limits  shim.Limits
	load    float64 // of all machines
	reports []*shim.Report
}

func name(i int) string { return fmt.Sprint("machine-", i) }

func (d *desk) Take(context.Context, string) (*shim.Ticket, error) { return nil, nil }

func (d *desk) Place(_ context.Context, w *shim.Wish) (*shim.Ticket, error) {
	if len(w.Without) == len(d.daemons) {
		return nil, shim.ErrNobody
	}
	return &shim.Ticket{Lease: "lease", Machine: offload.Machine{Name: name(len(w.Without))}}, nil
}

func (d *desk) Open(_ context.Context, t *shim.Ticket) (io.ReadWriteCloser, error) {
	for i, daemon := range d.daemons {
		if t.Machine.Name != name(i) {
			continue
		}
		ours, theirs := net.Pipe()
		go func() {
			_ = nixproto.Serve(context.Background(), theirs, func(_ context.Context, s *nixproto.Session) (nixproto.Handler, error) {
				return &session{daemon, s}, nil
			}, &nixproto.ServerOptions{Trust: nixproto.Trusted})
		}()
		return ours, nil
	}
	return nil, errors.New("no such machine")
}

func (d *desk) Look(context.Context, string) (offload.Readings, error) {
	return offload.Readings{Load1: &d.load}, nil
}

func (d *desk) Settle(_ context.Context, r *shim.Report) error {
	d.reports = append(d.reports, r)
	return nil
}

func (d *desk) Where(context.Context, narinfo.StorePath) (*shim.Ticket, error) { return nil, nil }

// daemon is a builder's.
type daemon struct {
	build func(ctx context.Context, s *nixproto.Session) (*nixproto.BuildResult, error)
}

type session struct {
	*daemon
	tell *nixproto.Session
}

func (s *session) PathInfo(context.Context, narinfo.StorePath) (*nixproto.PathInfo, error) {
	return nil, errors.ErrUnsupported
}

func (s *session) ValidPaths(
	_ context.Context, paths []narinfo.StorePath, _ *nixproto.ValidPathsOptions,
) ([]narinfo.StorePath, error) {
	return paths, nil
}

func (s *session) BuildDerivation(
	ctx context.Context, _ narinfo.StorePath, _ *nixproto.Derivation, _ nixproto.BuildMode,
) (*nixproto.BuildResult, error) {
	return s.build(ctx, s.tell)
}

func (s *session) BuildPathsWithResults(context.Context, []nixproto.DerivedPath, nixproto.BuildMode) ([]nixproto.PathResult, error) {
	return nil, errors.ErrUnsupported
}

func (s *session) Missing(context.Context, []nixproto.DerivedPath) (*nixproto.Missing, error) {
	return nil, errors.ErrUnsupported
}

func works(context.Context, *nixproto.Session) (*nixproto.BuildResult, error) {
	return &nixproto.BuildResult{Status: nixproto.Built}, nil
}

// silent does nothing until nobody wants it any more.
func silent(ctx context.Context, _ *nixproto.Session) (*nixproto.BuildResult, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// breaksOnce ends its connection the first time, and works then.
func breaksOnce() func(context.Context, *nixproto.Session) (*nixproto.BuildResult, error) {
	broken := false
	return func(ctx context.Context, s *nixproto.Session) (*nixproto.BuildResult, error) {
		if !broken {
			broken = true
			return nil, errors.New("the database is busy")
		}
		return works(ctx, s)
	}
}

// talks says something every minute for twenty.
func talks(ctx context.Context, s *nixproto.Session) (*nixproto.BuildResult, error) {
	for range 20 {
		time.Sleep(time.Minute)
		s.Send(nixproto.Event{Kind: nixproto.EventLog, Text: "going on\n"})
	}
	return works(ctx, s)
}

// build has a client ask for a build, and returns how long it took, on the desk's clock.
func build(t *testing.T, d *desk, root string) (*nixproto.BuildResult, time.Duration, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- shim.Serve(t.Context(), theirs, &storetest.Memory{}, d, &shim.Options{StoreRoot: root})
	}()
	client, err := nixproto.NewClient(t.Context(), ours, nil)
	require.NoError(t, err)
	require.NoError(t, client.SetOptions(t.Context(), &nixproto.Settings{MaxSilentTime: d.limits.MaxSilent,
		Overrides: map[string]string{"timeout": fmt.Sprint(int(d.limits.Timeout.Seconds()))}}))
	began := time.Now()
	r, err := client.BuildDerivation(t.Context(), drvPath, &nixproto.Derivation{
		Outputs: map[string]nixproto.Output{"out": {Path: outPath}}, Platform: "x86_64-linux", Builder: "/bin/sh",
	}, nixproto.BuildNormal)
	took := time.Since(began)
	require.NoError(t, client.Close())
	<-served
	return r, took, err
}

// withDerivation writes the derivation where the shim reads it.
func withDerivation(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	file := filepath.Join(root, string(drvPath))
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte(`Derive([("out","`+string(outPath)+`","","")],[],[],"x86_64-linux","/bin/sh",[],[("name","thing")])`), 0o644))
	return root
}

func TestWhatIsGivenUp(t *testing.T) {
	root := withDerivation(t)
	for _, test := range []struct {
		name    string
		desk    desk
		results []offload.Result // of each try
		status  nixproto.BuildStatus
		takes   time.Duration // about
	}{
		{"a build that works", desk{daemons: []*daemon{{works}}}, []offload.Result{offload.Built}, nixproto.Built, 0},
		{"a stalled one goes elsewhere", desk{daemons: []*daemon{{silent}, {works}}},
			[]offload.Result{offload.Lost, offload.Built}, nixproto.Built, 5 * time.Minute},
		{"a silent one on a machine that works does not", desk{load: 2, limits: shim.Limits{Timeout: time.Hour}, daemons: []*daemon{{silent}, {works}}},
			[]offload.Result{offload.TimedOut}, nixproto.TimedOut, time.Hour},
		{"one that says something does not", desk{daemons: []*daemon{{talks}, {works}}}, []offload.Result{offload.Built}, nixproto.Built,
			20 * time.Minute},
		{"max-silent-time", desk{limits: shim.Limits{MaxSilent: time.Minute}, daemons: []*daemon{{silent}, {works}}},
			[]offload.Result{offload.TimedOut}, nixproto.TimedOut, time.Minute},
		{"the only one that there is is tried again", desk{daemons: []*daemon{{breaksOnce()}}},
			[]offload.Result{offload.Lost, offload.Built}, nixproto.Built, 10 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, took, err := build(t, &test.desk, root)
				require.NoError(t, err)
				require.Equal(t, test.status, r.Status, r.Message)
				require.InDelta(t, test.takes.Seconds(), took.Seconds(), 40)
				var results []offload.Result
				for _, report := range test.desk.reports {
					results = append(results, report.Outcome.Result)
				}
				require.Equal(t, test.results, results)
			})
		})
	}
}

func TestWhereNoBuilderIsLeft(t *testing.T) {
	root := withDerivation(t)
	synctest.Test(t, func(t *testing.T) {
		d := &desk{daemons: []*daemon{{silent}, {silent}}}
		_, _, err := build(t, d, root)
		require.ErrorContains(t, err, "every builder that takes thing failed")
		require.ErrorContains(t, err, "machine-1")
	})
}
