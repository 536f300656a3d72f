package nixproto_test

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// TestRealClientsOfAllVersions lets each release copy to, and build on, a server of each version.
func TestRealClientsOfAllVersions(t *testing.T) {
	for _, release := range realnix.Releases() {
		w := newWorkshop(t, realnix.Get(t, release))
		path := w.run(t, "nix-store", "--add", "/nix/default.nix")
		for minor := uint8(32); minor <= 38; minor++ {
			o := &nixproto.ServerOptions{Trust: nixproto.Trusted, MaxVersion: nixproto.Version{Major: 1, Minor: minor}}
			t.Run(release+" "+o.MaxVersion.String(), func(t *testing.T) {
				s := newShelf()
				to := serveNix(t, w.realDaemon, o, func(_ context.Context, session *nixproto.Session) (nixproto.Handler, error) {
					s.send = session.Send
					return s, nil
				})
				w.run(t, "nix", "copy", "--no-check-sigs", "--to", to.uri, path)
				want := o.MaxVersion
				if release == "2.8" {
					want.Minor = min(want.Minor, 34)
				}
				require.Equal(t, want, to.peers()[0].Version)
				code, _, stderr := w.buildAway(t, to, "-A", "plain")
				require.Zero(t, code, stderr)
				require.Contains(t, stderr, "echo says $name")
				w.run(t, "nix-store", "--delete", "--ignore-liveness", w.run(t, "nix-store", "-q", "--outputs", string(w.drvs["plain"])))
			})
		}
	}
}

// TestRealClientIsRefused sends the error at once, while the client has more to send than any pipe holds.
func TestRealClientIsRefused(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			w := newWorkshop(t, realnix.Get(t, release))
			require.NoError(t, os.WriteFile(w.nix.Host(w.dir+"/refuse-me"), []byte(strings.Repeat("x", 8<<20)), 0o644))
			path := w.run(t, "nix-store", "--add", "/nix/refuse-me")
			s := serveNix(t, w.realDaemon, trusted, func(context.Context, *nixproto.Session) (nixproto.Handler, error) {
				return newShelf(), nil
			})
			s.allow = "client left" // some go without ending their frames
			code, _, stderr := w.try(t, "nix", "copy", "--no-check-sigs", "--to", s.uri, path)
			require.Equal(t, 1, code)
			require.Contains(t, stderr, "error: refused")
		})
	}
}

// TestRealClientIsKilled ends a build's context at once.
func TestRealClientIsKilled(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			w := newWorkshop(t, realnix.Get(t, release))
			begun, ended := make(chan struct{}, 1), make(chan struct{}, 1)
			s := serveNix(t, w.realDaemon, trusted, func(context.Context, *nixproto.Session) (nixproto.Handler, error) {
				return &waiting{newShelf(), begun, ended}, nil
			})
			s.allow = "client left"
			cmd := w.command(t, "nix-build", "/nix/default.nix", "--no-out-link", "--max-jobs", "0", "-A", "plain",
				"--builders", s.uri+" x86_64-linux")
			require.NoError(t, cmd.Start())
			<-begun
			// A 2.34 that is interrupted in the moment in which a build begins now and then does not notice.
			require.Eventually(t, func() bool {
				cmd.Process.Signal(syscall.SIGINT)
				select {
				case <-ended:
					return true
				case <-time.After(time.Second):
					return false
				}
			}, 20*time.Second, 10*time.Millisecond, "the build goes on")
			cmd.Wait()
		})
	}
}

// waiting builds until its client leaves.
type waiting struct {
	*shelf
	begun chan struct{}
	ended chan struct{}
}

func (w *waiting) BuildDerivation(
	ctx context.Context, _ narinfo.StorePath, _ *nixproto.Derivation, _ nixproto.BuildMode,
) (*nixproto.BuildResult, error) {
	w.begun <- struct{}{}
	<-ctx.Done()
	w.ended <- struct{}{}
	return nil, context.Cause(ctx)
}
