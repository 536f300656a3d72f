package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/voidnxlab/nixtrap/internal/subcommand"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/coordinator"
)

// asked is a command that asks the coordinator.
type asked struct {
	socket string
	json   bool
}

func (p *process) asked(set *flag.FlagSet) *asked {
	a := &asked{}
	set.StringVar(&a.socket, "socket", defaultSocket(p.env, os.Geteuid()), "the coordinator's `FILE`; $"+socketVariable+" sets it as well")
	return a
}

func (a *asked) client() *coordinator.Client { return coordinator.NewClient(a.socket) }

// explained adds what to do where there is no coordinator.
func (a *asked) explained(err error) error {
	if errors.Is(err, coordinator.ErrUnavailable) {
		return subcommand.Hint(err, "start one with nix-offload coordinator, or name its socket with --socket; it answers root and who runs it")
	}
	return err
}

func (p *process) printJSON(v any) error {
	e := json.NewEncoder(p.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// runStatus shows what runs where.
func (p *process) runStatus(ctx context.Context, cmd *subcommand.Command, args []string) error {
	set := cmd.FlagSet()
	a := p.asked(set)
	set.BoolVar(&a.json, "json", false, "all that is known, as JSON")
	words, err := cmd.Parse(set, args)
	if err == nil && len(words) > 0 {
		err = cmd.Misuse("takes no arguments")
	}
	if err != nil {
		return err
	}
	s, err := a.client().Status(ctx)
	if err != nil {
		return a.explained(err)
	}
	if a.json {
		return p.printJSON(s)
	}
	fmt.Fprintf(p.stdout, "mode %s", s.Mode)
	if !s.ModeUntil.IsZero() {
		fmt.Fprintf(p.stdout, " until %s", s.ModeUntil.Format(time.TimeOnly))
	}
	fmt.Fprintln(p.stdout)
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "machine\tbuilds\tstate\tload\tmemory free\tlast trouble")
	for _, m := range s.Machines {
		fmt.Fprintf(w, "%s\t%d of %d\t%s\t%s\t%s\t%s\n", m.Machine.Name, m.Running, m.Machine.MaxJobs, state(&m),
			known(m.Readings.Load1, "%.2f"), known(gibibytes(m.Readings.MemoryAvailable), "%.1f GiB"), m.LastError)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, b := range s.Builds {
		fmt.Fprintf(p.stdout, "%s on %s for %s\n", b.Name, b.Machine, time.Since(b.Since).Round(time.Second))
	}
	return nil
}

func state(m *coordinator.MachineStatus) string {
	switch {
	case m.Machine.Drained || !m.DrainedUntil.IsZero():
		return "drained"
	case m.Breaker == offload.BreakerOpen:
		return "failing"
	case m.Breaker == offload.BreakerBarred:
		return "wrong key"
	case m.Readings.At.IsZero():
		return "not read yet"
	}
	return "up"
}

func known[T any](v *T, format string) string {
	if v == nil {
		return "?"
	}
	return fmt.Sprintf(format, *v)
}

func gibibytes(n *int64) *float64 {
	if n == nil {
		return nil
	}
	g := float64(*n) / (1 << 30)
	return &g
}

// runExplain shows why a derivation went where it went.
func (p *process) runExplain(ctx context.Context, cmd *subcommand.Command, args []string) error {
	set := cmd.FlagSet()
	a := p.asked(set)
	set.BoolVar(&a.json, "json", false, "the records as JSON")
	limit := set.Int("limit", 1, "show the last `N` decisions")
	words, err := cmd.Parse(set, args)
	if err == nil && len(words) > 1 {
		err = cmd.Misuse("takes one derivation, or none for the last decision")
	}
	if err != nil {
		return err
	}
	drv := ""
	if len(words) == 1 {
		drv = words[0]
	}
	list, err := a.client().Decisions(ctx, drv, *limit)
	if err != nil {
		return a.explained(err)
	}
	if a.json {
		return p.printJSON(list)
	}
	if len(list) == 0 {
		return subcommand.Hint(fmt.Errorf("explain: no decision about %q is kept", drv),
			"Nix has not asked: it was built or substituted already, or Nix uses another build-hook")
	}
	for _, d := range list {
		if err := d.WriteTable(p.stdout); err != nil {
			return err
		}
	}
	return nil
}

// runMachines lists the builders.
func (p *process) runMachines(ctx context.Context, cmd *subcommand.Command, args []string) error {
	set := cmd.FlagSet()
	a := p.asked(set)
	if _, err := cmd.Parse(set, args); err != nil {
		return err
	}
	s, err := a.client().Status(ctx)
	if err != nil {
		return a.explained(err)
	}
	return p.printJSON(s.Machines)
}

// runDrain gives a machine no more builds for a time; runResume ends that.
func (p *process) runDrain(ctx context.Context, cmd *subcommand.Command, args []string) error {
	set := cmd.FlagSet()
	a := p.asked(set)
	ttl := set.Duration("ttl", 24*time.Hour, "for this `TIME`")
	words, err := cmd.Parse(set, args)
	if err == nil && (len(words) != 1 || *ttl <= 0) {
		err = cmd.Misuse("takes one MACHINE, and a TIME of more than 0")
	}
	if err != nil {
		return err
	}
	return a.explained(a.client().Drain(ctx, words[0], *ttl))
}

func (p *process) runResume(ctx context.Context, cmd *subcommand.Command, args []string) error {
	set := cmd.FlagSet()
	a := p.asked(set)
	words, err := cmd.Parse(set, args)
	if err == nil && len(words) != 1 {
		err = cmd.Misuse("takes one MACHINE")
	}
	if err != nil {
		return err
	}
	return a.explained(a.client().Drain(ctx, words[0], 0))
}

// runMode says where builds may go, for a time.
func (p *process) runMode(ctx context.Context, cmd *subcommand.Command, args []string) error {
	set := cmd.FlagSet()
	a := p.asked(set)
	ttl := set.Duration("ttl", time.Hour, "for this `TIME`; then the configured mode comes back")
	words, err := cmd.Parse(set, args)
	if err == nil && (len(words) != 1 || *ttl <= 0) {
		err = cmd.Misuse("takes one of auto, local, remote, and a TIME of more than 0")
	}
	if err != nil {
		return err
	}
	return a.explained(a.client().SetMode(ctx, offload.Mode(words[0]), *ttl))
}
