package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/voidnxlab/nixtrap/internal/subcommand"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/coordinator"
	"github.com/voidnxlab/nixtrap/offload/history"
	"github.com/voidnxlab/nixtrap/offload/machines"
	"github.com/voidnxlab/nixtrap/offload/ssh"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

// coordinatorOptions are what the coordinator was told.
type coordinatorOptions struct {
	socket, machines, state, mode string
	key, knownHosts               string
	maxJobs                       int
	policy                        offload.Policy
}

var modes = []string{string(offload.ModeAuto), string(offload.ModeLocalFirst), string(offload.ModeRemoteFirst)}

const configFlag = "config"

// runCoordinator serves hooks, shims and people until it is told to stop.
func (p *process) runCoordinator(ctx context.Context, cmd *subcommand.Command, args []string) error {
	o := &coordinatorOptions{}
	set := cmd.FlagSet()
	config := set.String(configFlag, "", "TOML `FILE` with these flags' values, and the policy; flags go before it")
	set.StringVar(&o.socket, "socket", defaultSocket(p.env, os.Geteuid()), "`FILE` to listen on; $"+socketVariable+" sets it as well")
	set.StringVar(&o.machines, "machines", machines.DefaultFile, "`FILE` with the builders, as Nix has it or in TOML")
	set.StringVar(&o.state, "state-dir", p.defaultState(), "`FOLDER` for the history of builds; empty keeps none")
	set.StringVar(&o.mode, "mode", string(offload.ModeAuto), "where builds may go, `MODE`: auto, local, remote")
	set.StringVar(&o.key, "key", "", "private key `FILE` for builders that name none")
	set.StringVar(&o.knownHosts, "known-hosts", "", "`FILE` with host keys of builders that pin none (default root's and the system's)")
	set.IntVar(&o.maxJobs, "max-jobs", 1, "builds that this machine takes at once, `N`, until its Nix says otherwise")
	words, err := cmd.Parse(set, args)
	if err == nil && *config != "" {
		err = readConfig(*config, set, &o.policy)
	}
	o.policy.Mode = offload.Mode(o.mode)
	switch {
	case err != nil:
		return err
	case len(words) > 0:
		return cmd.Misuse("takes no arguments")
	case !slices.Contains(modes, o.mode):
		return cmd.Misuse(fmt.Sprintf("--mode %q is none of %s", o.mode, strings.Join(modes, ", ")))
	case o.socket == "":
		return cmd.Misuse("there is no folder for a socket: name one with --socket FILE")
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return o.serve(ctx, slog.New(slog.NewTextHandler(p.stderr, nil)))
}

// defaultState is where what outlives the process is kept.
func (p *process) defaultState() string {
	switch {
	case p.env["STATE_DIRECTORY"] != "":
		return p.env["STATE_DIRECTORY"]
	case os.Geteuid() == 0:
		return "/var/lib/nix-offload"
	case p.env["XDG_STATE_HOME"] != "":
		return filepath.Join(p.env["XDG_STATE_HOME"], "nix-offload")
	case p.env["HOME"] != "":
		return filepath.Join(p.env["HOME"], ".local/state/nix-offload")
	}
	return ""
}

func (o *coordinatorOptions) serve(ctx context.Context, log *slog.Logger) error {
	list, err := o.readMachines(log)
	if err != nil {
		return err
	}
	shims := shimFolder(o.socket)
	if err := os.MkdirAll(shims, 0o755); err != nil {
		return err
	}
	if err := coordinator.ClearShims(shims); err != nil {
		log.Warn("old leases not removed", "error", err)
	}
	if err := saveMachines(shims, list); err != nil {
		return err
	}
	db, err := o.openHistory(ctx, log)
	if err != nil {
		return err
	}
	if db != nil {
		defer db.Close()
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	var here store.Store
	switch local, err := localstore.Open(ctx, &localstore.Options{Logger: log}); err {
	case nil:
		defer local.Close()
		here = local
	default:
		log.Warn("how much builders lack will not be known", "error", err)
	}
	transport := &coordinator.SSH{Options: o.ssh()}
	defer transport.Close()
	c, err := coordinator.New(coordinator.Options{
		Machines: list, Local: thisMachine(o.maxJobs), Policy: &o.policy, Transport: transport,
		Store: here, History: db, ShimDir: shims, ShimProgram: program, Logger: log,
	})
	if err != nil {
		return err
	}
	listener, err := listen(o.socket)
	if err != nil {
		return err
	}
	log.Info("listening", "socket", o.socket, "machines", len(list))
	return serve(ctx, c, listener)
}

// serve answers until ctx ends. Connections that are builders' are cut then: who is at their other end goes on elsewhere.
func serve(ctx context.Context, c *coordinator.Coordinator, l net.Listener) error {
	running, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(running)
	}()
	server := &http.Server{Handler: coordinator.NewHandler(c), ReadHeaderTimeout: 10 * time.Second}
	unhook := context.AfterFunc(ctx, func() { _ = server.Close() })
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	err := server.Serve(l)
	unhook()
	stop()
	<-done
	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}
	return err
}

// readMachines reads the list of builders. Those with faults are left out, and said.
func (o *coordinatorOptions) readMachines(log *slog.Logger) ([]offload.Machine, error) {
	list, err := machines.Read(o.machines, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, subcommand.Hint(fmt.Errorf("coordinator: %w", err), "list builders in it, or name another file with --machines")
	case err != nil && len(list) == 0:
		return nil, err
	case err != nil:
		log.Error("some machines are left out", "error", err)
	}
	names := make(map[string]int)
	for i := range list {
		n := &list[i].Name
		if names[*n]++; names[*n] > 1 {
			*n = fmt.Sprintf("%s-%d", *n, names[*n])
		}
	}
	return list, nil
}

func (o *coordinatorOptions) ssh() *ssh.Options {
	options := &ssh.Options{Credentials: os.Getenv("CREDENTIALS_DIRECTORY")}
	if o.key != "" {
		options.KeyFiles = []string{o.key}
	}
	if o.knownHosts != "" {
		options.KnownHosts = []string{o.knownHosts}
	}
	return options
}

func (o *coordinatorOptions) openHistory(ctx context.Context, log *slog.Logger) (*history.DB, error) {
	if o.state == "" {
		return nil, nil
	}
	if err := os.MkdirAll(o.state, 0o755); err != nil {
		return nil, err
	}
	return history.Open(ctx, filepath.Join(o.state, "history.sqlite"), &history.Options{Log: log})
}

// thisMachine is the one that asks.
func thisMachine(maxJobs int) *offload.Machine {
	name, err := os.Hostname()
	if err != nil {
		name = "localhost"
	}
	return &offload.Machine{Name: name + " (here)", Local: true, Systems: []string{machines.ThisSystem()}, MaxJobs: maxJobs,
		Features: []string{"nixos-test", "benchmark", "big-parallel", "kvm", "uid-range", "recursive-nix", "ca-derivations"}}
}

// listen listens on a unix socket for root and who runs this, in the place of one that nobody listens on any more.
func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	if conn, err := net.Dial("unix", socket); err == nil {
		_ = conn.Close()
		return nil, subcommand.Hint(fmt.Errorf("coordinator: somebody listens on %s", socket), "stop it, or use another --socket")
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &ours{l.(*net.UnixListener)}, nil
}

// ours accepts root and who runs this.
type ours struct{ *net.UnixListener }

// Accept implements net.Listener.
func (o *ours) Accept() (net.Conn, error) {
	for {
		conn, err := o.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peer(conn); err == nil && (uid == 0 || uid == os.Geteuid()) {
			return conn, nil
		}
		_ = conn.Close()
	}
}

// shimFolder is where shims have their names.
func shimFolder(socket string) string { return filepath.Join(filepath.Dir(socket), "shims") }

func isLease(name string) bool { return strings.HasPrefix(name, "lease-") }
