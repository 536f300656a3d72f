package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/drv"
	"github.com/voidnxlab/nixtrap/offload/hook"
	"github.com/voidnxlab/nixtrap/offload/host"
	"github.com/voidnxlab/nixtrap/offload/shim"
)

// limitsOf are those of Nix's settings that concern a build elsewhere.
func limitsOf(s hook.Settings) shim.Limits {
	of := func(name string) string {
		value, _ := s.Lookup(name)
		return value
	}
	seconds := func(name string) time.Duration {
		n, err := strconv.ParseUint(of(name), 10, 31)
		if err != nil {
			return 0
		}
		return time.Duration(n) * time.Second
	}
	return shim.Limits{
		MaxSilent: seconds("max-silent-time"), Timeout: seconds("timeout"),
		Substitute: of("builders-use-substitutes") == "true", KeepFailed: of("keep-failed") == "true",
	}
}

// localBy is this machine as Nix's settings say it is; where they say nothing it is as it was described.
func localBy(s hook.Settings, m offload.Machine) offload.Machine {
	if text, ok := s.Lookup("max-jobs"); ok {
		if n, err := strconv.ParseUint(text, 10, 16); err == nil {
			m.MaxJobs = int(n)
		}
	}
	if text, ok := s.Lookup("system"); ok && text != "" {
		extra, _ := s.Lookup("extra-platforms")
		m.Systems = append(strings.Fields(extra), text)
	}
	if text, ok := s.Lookup("system-features"); ok {
		m.Features = strings.Fields(text)
	}
	return m
}

// Decide implements [hook.Decider].
func (c *Coordinator) Decide(ctx context.Context, s hook.Settings, try *hook.Try) (*hook.Answer, error) {
	request, err := c.readDerivation(try.Drv)
	if err != nil {
		return nil, fmt.Errorf("coordinator: %w", err)
	}
	// What Nix says goes before what the file says: it may have resolved the derivation since.
	request.System, request.Features = try.System, slices.Sorted(slices.Values(try.Features))
	q := &question{request: request, willing: try.Willing, limits: limitsOf(s)}
	if c.local != nil {
		here := localBy(s, c.local.Machine)
		q.here = &here
	}
	choice, l := c.choose(ctx, q)
	if choice.Verdict != offload.Accept {
		return &hook.Answer{Verdict: hook.Verdict(choice.Verdict)}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	program, err := c.name(l)
	if err != nil {
		c.release(l)
		return nil, err
	}
	m := &l.machine.Machine
	line := fmt.Sprintf("ssh-ng://localhost?remote-program=%s %s - 1 1 %s %s", program, try.System,
		column(slices.Concat(m.Features, m.MandatoryFeatures)), column(m.MandatoryFeatures))
	return &hook.Answer{Verdict: hook.Accept, Line: line, Name: m.Name}, nil
}

func (c *Coordinator) readDerivation(path string) (*offload.Request, error) {
	return drv.Read(filepath.Join(c.opts.StoreRoot, path), path)
}

// column is a list in Nix's machines file.
func column(words []string) string {
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ",")
}

// question is where a build is to go.
type question struct {
	request *offload.Request
	willing bool // Nix has a slot free for it here
	limits  shim.Limits
	needs   []need           // nil: not known
	here    *offload.Machine // this machine; nil: builders alone are candidates
	without []string         // names of those that are not
}

// choose decides where a build goes, keeps the record, and gives it to a builder if that is the choice.
func (c *Coordinator) choose(ctx context.Context, q *question) (offload.Choice, *lease) {
	now := time.Now()
	r := q.request
	names, estimates, speeds := c.estimates(ctx, r)
	q.needs = c.needs(ctx, r.DrvPath)
	var here offload.Readings
	if q.here != nil {
		here = host.Read(&host.Options{Root: c.opts.HostRoot})
		here.At = now
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var candidates []offload.Candidate
	for i, name := range names {
		m := c.fleet[name]
		if m == nil {
			if q.here == nil {
				continue
			}
			m = c.local
			m.readings = here
		}
		if slices.Contains(q.without, name) {
			continue
		}
		candidates = append(candidates, c.candidate(m, q, estimates[i], speeds[name], now))
	}
	first, ok := c.asked[r.DrvPath]
	if !ok {
		first = now
	}
	ask := &offload.Ask{Request: r, Willing: q.willing, Waited: now.Sub(first), Now: now}
	choice := offload.Pick(ask, candidates, c.policy(now))
	record := offload.NewDecision(ask, &choice)
	if choice.Verdict == offload.Postpone {
		c.asked[r.DrvPath] = first
		if ok {
			return choice, nil // a record of each time that it asks would tell nothing new
		}
	} else {
		delete(c.asked, r.DrvPath)
	}
	c.log.Info("decision", "drv", r.DrvPath, "record", record.Line())
	if choice.Verdict != offload.Accept {
		c.note(record)
		return choice, nil
	}
	l := c.give(c.fleet[choice.Machine], r, choice.Ranking[0].Estimate, now)
	l.limits, l.needs = q.limits, q.needs
	l.decision = c.note(record)
	return choice, l
}

// estimates returns the names of all machines, this one's last, with what is known of the build on each.
func (c *Coordinator) estimates(ctx context.Context, r *offload.Request) ([]string, []offload.Estimate, map[string]float64) {
	names := slices.Clone(c.names)
	if c.local != nil {
		names = append(names, c.local.Name)
	}
	if c.opts.History == nil {
		return names, make([]offload.Estimate, len(names)), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	return names, c.opts.History.Estimates(ctx, r, names), c.opts.History.Speeds(ctx)
}

// candidate says what is known of a machine. It is called with the mutex held.
func (c *Coordinator) candidate(m *machine, q *question, e offload.Estimate, speed float64, now time.Time) offload.Candidate {
	described := m.Machine
	if m.Local {
		described = *q.here
	}
	described.Drained = described.Drained || now.Before(m.drained)
	candidate := offload.Candidate{Machine: &described, Readings: m.readings, Bandwidth: m.bandwidth, Speed: speed, Estimate: e}
	if !m.Local {
		candidate.Breaker = m.breaker(c.opts.Transport, now)
		candidate.MissingBytes, candidate.UnknownBytes = m.missing(q.needs)
		c.inquire(m, q.needs, now)
	}
	for l := range m.running {
		candidate.Leases = append(candidate.Leases, offload.Lease{
			Started: l.started, Memory: l.estimate.MemoryP90, Cores: l.request.Cores(coresOf(&m.readings)),
			Ends: l.started.Add(time.Duration(l.estimate.P50 * float64(time.Second))),
		})
	}
	return candidate
}

func coresOf(r *offload.Readings) int {
	if r.Cores == nil {
		return 1
	}
	return *r.Cores
}

// policy is the one that holds now. It is called with the mutex held.
func (c *Coordinator) policy(now time.Time) *offload.Policy {
	var p offload.Policy
	if c.opts.Policy != nil {
		p = *c.opts.Policy
	}
	if now.Before(c.override.until) {
		p.Mode = c.override.mode
	}
	return &p
}

// note keeps a decision's record, and returns its number, 0 if it is not kept.
func (c *Coordinator) note(record *offload.Decision) int64 {
	if c.opts.History == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	id, err := c.opts.History.Note(ctx, record)
	if err != nil {
		c.log.Warn("decision not kept", "drv", record.Request.DrvPath, "error", err)
		return 0
	}
	return id
}

// ClearShims removes the names of leases that an earlier process has left in a folder long ago: Nix may yet start a younger
// one, which finds a builder all the same.
func ClearShims(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "lease-*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		st, err := os.Lstat(name)
		if err == nil && time.Since(st.ModTime()) > lingering {
			err = os.Remove(name)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

var _ hook.Decider = (*Coordinator)(nil)

// Machines returns what is known of each machine, by name.
func (c *Coordinator) Machines() []MachineStatus {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []MachineStatus
	for _, name := range slices.Sorted(maps.Keys(c.fleet)) {
		m := c.fleet[name]
		s := MachineStatus{
			Machine: m.Machine, Readings: m.readings, Breaker: m.breaker(c.opts.Transport, now), Running: len(m.running),
			Bandwidth: m.bandwidth, LastError: m.lastError,
		}
		if now.Before(m.drained) {
			s.DrainedUntil = m.drained
		}
		all = append(all, s)
	}
	return all
}

// MachineStatus is what is known of a builder.
type MachineStatus struct {
	Machine      offload.Machine  `json:"machine"`
	Readings     offload.Readings `json:"readings"`
	Breaker      offload.Breaker  `json:"breaker,omitempty"`
	Running      int              `json:"running"`             // builds given to it by this coordinator
	Bandwidth    float64          `json:"bandwidth,omitempty"` // bytes a second
	DrainedUntil time.Time        `json:"drained_until,omitzero"`
	LastError    string           `json:"last_error,omitempty"` // of taking readings, or of a build that was lost
}
