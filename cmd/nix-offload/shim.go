package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/internal/pause"
	"github.com/voidnxlab/nixtrap/internal/subcommand"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/coordinator"
	"github.com/voidnxlab/nixtrap/offload/shim"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

// shimName is a name that the program may be called by, for Nix 2.8 takes a remote-program without arguments.
const shimName = "nix-offload-shim"

// shimAlone is the command that nix-offload-shim is, and every lease.
func (p *process) shimAlone() *subcommand.Command {
	return &subcommand.Command{
		Name: shimName, Args: "[flags] [--stdio]", Short: "answer Nix in a builder's place", Long: shimHelp,
		Invocation: shimName, Run: p.runShim,
	}
}

// runShim is what Nix takes for a builder's daemon.
func (p *process) runShim(ctx context.Context, cmd *subcommand.Command, args []string) error {
	set := cmd.FlagSet()
	socket := set.String("socket", defaultSocket(p.env, os.Geteuid()), "the coordinator's `FILE`; $"+socketVariable+" sets it as well")
	set.Bool("stdio", true, "speak on standard input and output, which is all that it does: Nix says so")
	if _, err := cmd.Parse(set, args); err != nil {
		return err
	}
	program := p.called
	if isLease(filepath.Base(program)) { // it lies beside the coordinator's socket
		*socket = filepath.Join(filepath.Dir(filepath.Dir(program)), filepath.Base(*socket))
	}
	log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	local, err := localstore.Open(ctx, &localstore.Options{
		StoreDir: p.env["NIX_STORE_DIR"], StateDir: p.env["NIX_STATE_DIR"], LogDir: p.env["NIX_LOG_DIR"], Logger: log,
	})
	if err != nil {
		return err
	}
	defer local.Close()
	desk := &patient{client: coordinator.NewClient(*socket), shims: shimFolder(*socket), log: log}
	defer desk.close()
	return shim.Serve(ctx, stdio{p.stdin, p.stdout}, local, desk, &shim.Options{Program: program, Logger: log})
}

// stdio is standard input and output as one connection.
type stdio struct {
	io.Reader
	io.Writer
}

// Close implements io.Closer. It ends a blocked Read.
func (s stdio) Close() error {
	if f, ok := s.Reader.(io.Closer); ok {
		return f.Close()
	}
	return nil
}

// patient asks the coordinator, waits for it when it is away, as while it is restarted, and does without it when it stays
// away: then this process knows the machines that the coordinator knew, and nothing of what others build there.
type patient struct {
	client *coordinator.Client
	shims  string
	log    *slog.Logger

	mu        sync.Mutex // guards all below
	alone     *coordinator.Coordinator
	transport coordinator.SSH
}

var _ shim.Desk = (*patient)(nil)

// patience is how long a coordinator may be away.
const patience = 15 * time.Second

// do calls f with the coordinator, or with one of our own.
func do[T any](ctx context.Context, p *patient, f func(shim.Desk) (T, error)) (T, error) {
	p.mu.Lock()
	alone := p.alone
	p.mu.Unlock()
	if alone != nil {
		return f(alone)
	}
	for began := time.Now(); ; {
		v, err := f(p.client)
		if !errors.Is(err, coordinator.ErrUnavailable) {
			return v, err
		}
		if time.Since(began) > patience {
			break
		}
		if err := pause.For(ctx, time.Second/5); err != nil {
			return v, err
		}
	}
	alone, err := p.goAlone()
	if err != nil {
		var none T
		return none, err
	}
	return f(alone)
}

// goAlone makes a coordinator of our own.
func (p *patient) goAlone() (*coordinator.Coordinator, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alone != nil {
		return p.alone, nil
	}
	p.log.Error("the coordinator is away: going on without it")
	list, err := loadMachines(p.shims)
	if err != nil {
		return nil, err
	}
	p.alone, err = coordinator.New(coordinator.Options{Machines: list, Transport: &p.transport, ShimDir: p.shims})
	return p.alone, err
}

func (p *patient) close() { _ = p.transport.Close() }

// Take implements [shim.Desk].
func (p *patient) Take(ctx context.Context, program string) (*shim.Ticket, error) {
	return do(ctx, p, func(d shim.Desk) (*shim.Ticket, error) { return d.Take(ctx, program) })
}

// Place implements [shim.Desk].
func (p *patient) Place(ctx context.Context, w *shim.Wish) (*shim.Ticket, error) {
	return do(ctx, p, func(d shim.Desk) (*shim.Ticket, error) { return d.Place(ctx, w) })
}

// Open implements [shim.Desk].
func (p *patient) Open(ctx context.Context, t *shim.Ticket) (io.ReadWriteCloser, error) {
	return do(ctx, p, func(d shim.Desk) (io.ReadWriteCloser, error) { return d.Open(ctx, t) })
}

// Look implements [shim.Desk].
func (p *patient) Look(ctx context.Context, machine string) (offload.Readings, error) {
	return do(ctx, p, func(d shim.Desk) (offload.Readings, error) { return d.Look(ctx, machine) })
}

// Settle implements [shim.Desk].
func (p *patient) Settle(ctx context.Context, r *shim.Report) error {
	_, err := do(ctx, p, func(d shim.Desk) (any, error) { return nil, d.Settle(ctx, r) })
	return err
}

// Where implements [shim.Desk].
func (p *patient) Where(ctx context.Context, output narinfo.StorePath) (*shim.Ticket, error) {
	return do(ctx, p, func(d shim.Desk) (*shim.Ticket, error) { return d.Where(ctx, output) })
}

// machinesFile is where shims find what the coordinator knew.
const machinesFile = "machines.json"

func saveMachines(dir string, list []offload.Machine) error {
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, machinesFile), text, 0o600)
}

func loadMachines(dir string) (list []offload.Machine, err error) {
	text, err := os.ReadFile(filepath.Join(dir, machinesFile))
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(text, &list)
	return list, err
}
