package offload_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const gib = 1 << 30

// idle are the readings of an idle machine of 8 cores and 32 GiB.
func idle() offload.Readings {
	return offload.Readings{
		At:  now.Add(-time.Second),
		CPU: offload.Pressure{Some: new(0.0)}, Memory: offload.Pressure{Full: new(0.0)}, IO: offload.Pressure{Full: new(0.0)},
		Load1: new(0.0), Cores: new(8), MemoryTotal: new(int64(32 * gib)), MemoryAvailable: new(int64(30 * gib)),
		Store: offload.Space{Bytes: new(int64(100 * gib)), Inodes: new(int64(1e6))},
		Build: offload.Space{Bytes: new(int64(100 * gib)), Inodes: new(int64(1e6))},
	}
}

func builder(name string, changes ...func(*offload.Candidate)) offload.Candidate {
	c := offload.Candidate{
		Machine: &offload.Machine{
			Name: name, Scheme: "ssh-ng", Host: name, Systems: []string{"x86_64-linux"}, MaxJobs: 4, SpeedFactor: 1,
			Features: []string{"kvm", "big-parallel"},
		},
		Readings: idle(), MissingBytes: new(int64(0)), Bandwidth: 100e6,
		Estimate: offload.Estimate{Source: offload.SourceOthers, Samples: 5, P50: 100, P90: 200, MemoryP50: gib, MemoryP90: 2 * gib, MemorySamples: 5},
	}
	for _, change := range changes {
		change(&c)
	}
	return c
}

func here(changes ...func(*offload.Candidate)) offload.Candidate {
	local := func(c *offload.Candidate) {
		c.Machine.Local, c.Machine.Scheme, c.Machine.Host, c.MissingBytes, c.Bandwidth = true, "", "", nil, 0
	}
	return builder("here", append([]func(*offload.Candidate){local}, changes...)...)
}

func estimate(p50, p90 float64) func(*offload.Candidate) {
	return func(c *offload.Candidate) { c.Estimate.P50, c.Estimate.P90 = p50, p90 }
}

func leases(n int, change func(*offload.Lease)) func(*offload.Candidate) {
	return func(c *offload.Candidate) {
		for range n {
			l := offload.Lease{Started: now.Add(-time.Hour), Memory: gib, Cores: 1}
			if change != nil {
				change(&l)
			}
			c.Leases = append(c.Leases, l)
		}
	}
}

func ask(changes ...func(*offload.Ask)) *offload.Ask {
	a := &offload.Ask{Request: &offload.Request{Name: "x-1", Stem: "x", System: "x86_64-linux", Builder: "/bin/sh"}, Willing: true, Now: now}
	for _, change := range changes {
		change(a)
	}
	return a
}

func unwilling(a *offload.Ask)                  { a.Willing = false }
func waited(d time.Duration) func(*offload.Ask) { return func(a *offload.Ask) { a.Waited = d } }
func trivial(a *offload.Ask)                    { a.Request.PreferLocal = true }
func fixed(a *offload.Ask)                      { a.Request.Fixed = &offload.FixedOutput{} }
func system(s string) func(*offload.Ask)        { return func(a *offload.Ask) { a.Request.System = s } }

func ranked(t *testing.T, c offload.Choice, machine string) offload.Ranked {
	t.Helper()
	for _, r := range c.Ranking {
		if r.Machine == machine {
			return r
		}
	}
	require.Fail(t, "not ranked", machine)
	return offload.Ranked{}
}

func seconds(r offload.Ranked, name offload.TermName) float64 {
	for _, t := range r.Terms {
		if t.Name == name {
			return t.Seconds
		}
	}
	return 0
}

func TestVerdicts(t *testing.T) {
	loaded := func(c *offload.Candidate) { c.Readings.Load1 = new(8.0) }
	pressed := func(c *offload.Candidate) { c.Readings.Memory.Full = new(90.0) }
	tests := []struct {
		name       string
		ask        *offload.Ask
		candidates []offload.Candidate
		policy     *offload.Policy
		verdict    offload.Verdict
		machine    string
		why        offload.Why
	}{
		{"a long build goes to an idle builder", ask(), []offload.Candidate{here(), builder("a")}, nil, offload.Accept, "a", offload.WhyCheapest},
		{"a short one stays", ask(), []offload.Candidate{here(estimate(4, 8)), builder("a", estimate(4, 8), func(c *offload.Candidate) { c.MissingBytes = new(int64(1e9)) })}, nil, offload.Decline, "here", offload.WhyCheapest},
		{"what may be missing counts up to a bound", ask(), []offload.Candidate{
			builder("a", func(c *offload.Candidate) { c.MissingBytes = new(int64(200e6)) }),
			builder("b", func(c *offload.Candidate) { c.UnknownBytes = 20e9 }),
		}, nil, offload.Accept, "b", offload.WhyCheapest},
		{"a large upload keeps it here", ask(), []offload.Candidate{here(), builder("a", func(c *offload.Candidate) { c.MissingBytes = new(int64(20e9)) })}, nil, offload.Decline, "here", offload.WhyCheapest},
		{"a trivial one stays", ask(trivial), []offload.Candidate{here(), builder("a")}, nil, offload.Decline, "here", offload.WhyCheapest},
		{"a trivial one stays under pressure", ask(trivial), []offload.Candidate{here(pressed), builder("a")}, nil, offload.Decline, "here", offload.WhyCheapest},
		{"a trivial one goes if told so", ask(trivial), []offload.Candidate{here(loaded), builder("a")}, &offload.Policy{SendTrivial: true}, offload.Accept, "a", offload.WhyCheapest},
		{"a trivial one waits for a slot here rather than for a large upload", ask(trivial, unwilling), []offload.Candidate{
			here(estimate(1, 2)), builder("a", estimate(1, 2), func(c *offload.Candidate) { c.MissingBytes = new(int64(5e9)) }),
		}, nil, offload.Postpone, "here", offload.WhyWait},
		{"but not for ever", ask(trivial, unwilling, waited(time.Minute)), []offload.Candidate{
			here(estimate(1, 2)), builder("a", estimate(1, 2), func(c *offload.Candidate) { c.MissingBytes = new(int64(5e9)) }),
		}, nil, offload.Accept, "a", offload.WhyCheapest},
		{"a fixed output stays", ask(fixed), []offload.Candidate{here(), builder("a")}, nil, offload.Decline, "here", offload.WhyCheapest},
		{"a fixed output goes if told so", ask(fixed), []offload.Candidate{here(loaded), builder("a")}, &offload.Policy{SendFixed: true}, offload.Accept, "a", offload.WhyCheapest},
		{"a fixed output for another system goes", ask(fixed, system("aarch64-linux")), []offload.Candidate{
			here(), builder("a", func(c *offload.Candidate) { c.Machine.Systems = []string{"aarch64-linux"} }),
		}, nil, offload.Accept, "a", offload.WhyCheapest},
		{"mode local", ask(), []offload.Candidate{here(pressed), builder("a")}, &offload.Policy{Mode: offload.ModeLocalFirst}, offload.Decline, "here", offload.WhyCheapest},
		{"mode local, all slots taken", ask(unwilling), []offload.Candidate{here(), builder("a")}, &offload.Policy{Mode: offload.ModeLocalFirst}, offload.Postpone, "", offload.WhyPassing},
		{"mode local, not for this machine", ask(system("aarch64-linux")), []offload.Candidate{
			here(), builder("a", func(c *offload.Candidate) { c.Machine.Systems = []string{"aarch64-linux"} }),
		}, &offload.Policy{Mode: offload.ModeLocalFirst}, offload.Accept, "a", offload.WhyCheapest},
		{"mode local, too large for this machine", ask(), []offload.Candidate{
			here(func(c *offload.Candidate) { c.Readings.MemoryTotal = new(int64(gib)) }), builder("a"),
		}, &offload.Policy{Mode: offload.ModeLocalFirst}, offload.Accept, "a", offload.WhyCheapest},
		{"mode remote", ask(trivial), []offload.Candidate{here(), builder("a")}, &offload.Policy{Mode: offload.ModeRemoteFirst}, offload.Accept, "a", offload.WhyCheapest},
		{"mode remote, full for now", ask(), []offload.Candidate{here(), builder("a", leases(4, nil))}, &offload.Policy{Mode: offload.ModeRemoteFirst}, offload.Postpone, "", offload.WhyPassing},
		{"mode remote, full for long", ask(waited(time.Hour)), []offload.Candidate{here(), builder("a", leases(4, nil))}, &offload.Policy{Mode: offload.ModeRemoteFirst}, offload.Postpone, "", offload.WhyPassing},
		{"mode remote, under pressure for long", ask(waited(time.Hour)), []offload.Candidate{here(), builder("a", pressed)}, &offload.Policy{Mode: offload.ModeRemoteFirst}, offload.Accept, "a", offload.WhyPatience},
		{"mode remote, down for long", ask(waited(time.Hour)), []offload.Candidate{here(), builder("a", func(c *offload.Candidate) { c.Breaker = offload.BreakerOpen })}, &offload.Policy{Mode: offload.ModeRemoteFirst}, offload.Decline, "here", offload.WhyPatience},
		{"mode local, all slots taken for long", ask(unwilling, waited(time.Hour)), []offload.Candidate{here(), builder("a")}, &offload.Policy{Mode: offload.ModeLocalFirst}, offload.Postpone, "", offload.WhyPassing},
		{"no charge for a heavy build here", ask(), []offload.Candidate{here(), builder("a")}, &offload.Policy{HeavyHere: -1}, offload.Decline, "here", offload.WhyCheapest},
		{"mode remote, all drained", ask(), []offload.Candidate{here(), builder("a", func(c *offload.Candidate) { c.Machine.Drained = true })}, &offload.Policy{Mode: offload.ModeRemoteFirst}, offload.Decline, "here", offload.WhyCheapest},
		{"nobody builds it", ask(system("riscv64-linux")), []offload.Candidate{here(), builder("a")}, nil, offload.Decline, "", offload.WhyNobody},
		{"no machines", ask(), nil, nil, offload.Decline, "", offload.WhyNobody},
		{"all full", ask(unwilling), []offload.Candidate{here(), builder("a", leases(4, nil))}, nil, offload.Postpone, "", offload.WhyPassing},
		{"all full for long", ask(unwilling, waited(time.Hour)), []offload.Candidate{here(), builder("a", leases(4, nil))}, nil, offload.Postpone, "", offload.WhyPatience},
		{"a slot soon", ask(unwilling), []offload.Candidate{here(), builder("a", leases(4, func(l *offload.Lease) { l.Ends = now.Add(5 * time.Second) }))}, nil, offload.Postpone, "a", offload.WhyWait},
		{"down, and nobody else", ask(unwilling, system("aarch64-linux")), []offload.Candidate{
			here(), builder("a", func(c *offload.Candidate) {
				c.Machine.Systems, c.Breaker = []string{"aarch64-linux"}, offload.BreakerOpen
			}),
		}, nil, offload.Postpone, "", offload.WhyPassing},
		{"down for long, and nobody else", ask(unwilling, waited(time.Hour), system("aarch64-linux")), []offload.Candidate{
			here(), builder("a", func(c *offload.Candidate) {
				c.Machine.Systems, c.Breaker = []string{"aarch64-linux"}, offload.BreakerOpen
			}),
		}, nil, offload.Decline, "", offload.WhyPatience},
		{"pressure for long", ask(unwilling, waited(time.Hour)), []offload.Candidate{here(), builder("a", pressed)}, nil, offload.Accept, "a", offload.WhyPatience},
		{"fits nowhere: as Nix would", ask(), []offload.Candidate{
			here(func(c *offload.Candidate) { c.Estimate.MemoryP90 = 99 * gib }), builder("a", func(c *offload.Candidate) { c.Estimate.MemoryP90 = 99 * gib }),
		}, nil, offload.Accept, "a", offload.WhyNobody},
		{"patience ends: not on the one where it never fits", ask(unwilling, waited(time.Hour)), []offload.Candidate{
			here(), builder("a", pressed), builder("b", func(c *offload.Candidate) { c.Machine.SpeedFactor, c.Estimate.MemoryP90 = 9, 99*gib }),
		}, nil, offload.Accept, "a", offload.WhyPatience},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := offload.Pick(tt.ask, tt.candidates, tt.policy)
			require.Equal(t, tt.verdict, c.Verdict, "%+v", c)
			require.Equal(t, tt.machine, c.Machine)
			require.Equal(t, tt.why, c.Why)
			require.Len(t, c.Ranking, len(tt.candidates))
		})
	}
}

func TestRefusals(t *testing.T) {
	require := require.New(t)
	tests := []struct {
		want   offload.Refusal
		change func(c *offload.Candidate)
	}{
		{"", func(*offload.Candidate) {}},
		{offload.WrongSystem, func(c *offload.Candidate) { c.Machine.Systems = nil }},
		{offload.LacksFeature, func(c *offload.Candidate) { c.Machine.Features = []string{"big-parallel"} }},
		{"", func(c *offload.Candidate) { c.Machine.Features, c.Machine.MandatoryFeatures = nil, []string{"kvm"} }},
		{offload.MandatoryFeature, func(c *offload.Candidate) { c.Machine.MandatoryFeatures = []string{"gpu"} }},
		{offload.NoJobs, func(c *offload.Candidate) { c.Machine.MaxJobs = 0 }},
		{offload.NeverFits, func(c *offload.Candidate) { c.Estimate.MemoryP90 = 32 * gib }},
		{offload.NeverFits, func(c *offload.Candidate) { c.Machine.MemoryLimit = gib }},
		{offload.NeverFits, func(c *offload.Candidate) { c.Machine.MemoryReserve = 31 * gib }},
		{offload.MemoryShort, func(c *offload.Candidate) { c.Readings.MemoryAvailable = new(int64(2 * gib)) }},
		{"", func(c *offload.Candidate) { c.Readings.MemoryAvailable = new(int64(3 * gib)) }},
		{offload.MemoryShort, func(c *offload.Candidate) {
			c.Readings.MemoryAvailable = new(int64(4 * gib))
			leases(1, func(l *offload.Lease) { l.Started, l.Memory = now, 2*gib })(c)
		}},
		{"", func(c *offload.Candidate) { // half of it is there by now
			c.Readings.MemoryAvailable = new(int64(4 * gib))
			leases(1, func(l *offload.Lease) { l.Memory = 2 * gib })(c)
		}},
		{"", func(c *offload.Candidate) {
			c.Readings.MemoryAvailable = new(int64(3 * gib))
			leases(1, func(l *offload.Lease) { l.Memory, l.Used = 2*gib, new(int64(2*gib)) })(c)
		}},
		{offload.MemoryShort, func(c *offload.Candidate) {
			c.Machine.MemoryLimit = 3 * gib
			leases(2, nil)(c)
		}},
		{offload.Drained, func(c *offload.Candidate) { c.Machine.Drained = true }},
		{offload.Barred, func(c *offload.Candidate) { c.Breaker = offload.BreakerBarred }},
		{offload.CircuitOpen, func(c *offload.Candidate) { c.Breaker = offload.BreakerOpen }},
		{"", func(c *offload.Candidate) { c.Breaker = offload.BreakerHalfOpen }},
		{offload.Probing, func(c *offload.Candidate) { c.Breaker = offload.BreakerHalfOpen; leases(1, nil)(c) }},
		{offload.SlotsFull, leases(4, nil)},
		{offload.SlotsFull, func(c *offload.Candidate) { c.Readings.Builds = new(4) }},
		{offload.SlotsFull, func(c *offload.Candidate) {
			c.Readings.Builds = new(3)
			leases(1, func(l *offload.Lease) { l.Started = now })(c)
		}},
		{"", func(c *offload.Candidate) { c.Readings.Builds = new(3); leases(1, nil)(c) }},
		{offload.SlotsFull, leases(4, func(l *offload.Lease) { l.Ends = now.Add(time.Hour) })},
		{"", leases(4, func(l *offload.Lease) { l.Ends = now.Add(-time.Hour) })},
		{offload.CPUPressure, func(c *offload.Candidate) { c.Readings.CPU.Some = new(81.0) }},
		{offload.CPUPressure, func(c *offload.Candidate) { c.Readings.CPU.Some, c.Readings.Load1 = nil, new(17.0) }},
		{"", func(c *offload.Candidate) { c.Readings.Load1 = new(17.0) }},
		{offload.MemoryPressure, func(c *offload.Candidate) { c.Readings.Memory.Full = new(21.0) }},
		{offload.IOPressure, func(c *offload.Candidate) { c.Readings.IO.Full = new(81.0) }},
		{offload.DiskShort, func(c *offload.Candidate) { c.Readings.Store.Bytes = new(int64(gib)) }},
		{offload.DiskShort, func(c *offload.Candidate) { c.MissingBytes = new(int64(99 * gib)) }},
		{offload.DiskShort, func(c *offload.Candidate) { c.Readings.Build.Bytes = new(int64(gib)) }},
		{offload.InodesShort, func(c *offload.Candidate) { c.Readings.Store.Inodes = new(int64(100)) }},
		{"", func(c *offload.Candidate) { c.Readings.Store.Inodes = nil }},
		{offload.BatteryLow, func(c *offload.Candidate) { c.Readings.OnBattery, c.Readings.BatteryPercent = new(true), new(19.0) }},
		{"", func(c *offload.Candidate) { c.Readings.OnBattery, c.Readings.BatteryPercent = new(false), new(19.0) }},
		{"", func(c *offload.Candidate) { c.Readings.At = now.Add(-time.Minute); c.Readings.CPU.Some = new(100.0) }},
		{"", func(c *offload.Candidate) { c.Readings = offload.Readings{} }},
	}
	a := ask(func(a *offload.Ask) { a.Request.Features = []string{"kvm"} })
	for i, tt := range tests {
		c := offload.Pick(a, []offload.Candidate{builder("a", tt.change)}, nil)
		require.Equal(tt.want, c.Ranking[0].Refusal, "row %d: %+v", i, c)
		if tt.want != "" {
			require.NotEqual(string(tt.want), tt.want.String(), "it has a sentence")
		}
	}
}

func TestGuessesKeepNobodyOut(t *testing.T) {
	a := ask(func(a *offload.Ask) { a.Request.Features = []string{"big-parallel"} })
	c := offload.Pick(a, []offload.Candidate{builder("a", func(c *offload.Candidate) {
		c.Estimate = offload.Estimate{}
		c.Readings.MemoryTotal, c.Readings.MemoryAvailable = new(int64(8*gib)), new(int64(6*gib))
	})}, nil)
	require.Equal(t, offload.Accept, c.Verdict)
	require.Equal(t, offload.SourceGuess, c.Ranking[0].Estimate.Source)
	require.Equal(t, offload.Heavy, c.Class)
}

func TestTermsAreSeconds(t *testing.T) {
	c := offload.Pick(ask(), []offload.Candidate{
		here(func(c *offload.Candidate) { c.Readings.OnBattery, c.Readings.BatteryPercent = new(true), new(90.0) }),
		builder("plain", func(c *offload.Candidate) { c.MissingBytes, c.Estimate.OutputBytes = new(int64(1e9)), 5e8 }),
		builder("loaded", func(c *offload.Candidate) { c.Readings.Load1 = new(15.0) }),
		builder("pressed", func(c *offload.Candidate) { c.Readings.CPU.Some = new(62.5) }),
		builder("fast", func(c *offload.Candidate) { c.Estimate.Relative, c.Speed = true, 4 }),
		builder("typed", func(c *offload.Candidate) { c.Estimate.Relative, c.Machine.SpeedFactor = true, 2 }),
		builder("welcome", func(c *offload.Candidate) { c.Machine.Weight = 2 }),
		builder("unknown", func(c *offload.Candidate) { c.Readings = offload.Readings{} }),
		builder("full", leases(4, func(l *offload.Lease) { l.Ends = now.Add(20 * time.Second) })),
		builder("back", func(c *offload.Candidate) { c.Breaker = offload.BreakerHalfOpen }),
	}, nil)
	for _, want := range []struct {
		machine string
		term    offload.TermName
		seconds float64
	}{
		{"here", offload.TermBuild, 100},
		{"here", offload.TermHeavyHere, 50},
		{"here", offload.TermBattery, 100},
		{"here", offload.TermSend, 0},
		{"plain", offload.TermSend, 1},
		{"plain", offload.TermUpload, 10},
		{"plain", offload.TermDownload, 5},
		{"plain", offload.TermLoad, 0},
		{"loaded", offload.TermLoad, 100},  // 15 and one more on 8 cores
		{"pressed", offload.TermLoad, 100}, // half of the time is lost
		{"fast", offload.TermBuild, 25},
		{"typed", offload.TermBuild, 50},
		{"welcome", offload.TermWeight, -50.5},
		{"unknown", offload.TermUnknown, 30},
		{"full", offload.TermWait, 20},
		{"back", offload.TermProbe, 10},
	} {
		require.InDelta(t, want.seconds, seconds(ranked(t, c, want.machine), want.term), 1e-9, "%s of %s", want.term, want.machine)
	}
	require.Equal(t, []string{"load", "memory", "disk"}, ranked(t, c, "unknown").Unknown)
}

func TestUnknownIsPenalisedAndNotRefused(t *testing.T) {
	c := offload.Pick(ask(), []offload.Candidate{
		builder("a", func(c *offload.Candidate) { c.Readings = offload.Readings{} }), builder("b"),
		builder("c", func(c *offload.Candidate) { c.Readings.Load1 = new(16.0) }),
	}, nil)
	require.Equal(t, []string{"b", "a", "c"}, names(c))
	c = offload.Pick(ask(unwilling), []offload.Candidate{builder("a", func(c *offload.Candidate) { c.Readings = offload.Readings{} })}, nil)
	require.Equal(t, offload.Accept, c.Verdict)
}

func names(c offload.Choice) (names []string) {
	for _, r := range c.Ranking {
		names = append(names, r.Machine)
	}
	return names
}

func TestTiesAreBrokenByName(t *testing.T) {
	for range 10 {
		candidates := []offload.Candidate{builder("a"), builder("b"), builder("c")}
		rand.Shuffle(3, func(i, j int) { candidates[i], candidates[j] = candidates[j], candidates[i] })
		require.Equal(t, []string{"a", "b", "c"}, names(offload.Pick(ask(), candidates, nil)))
	}
}

// some returns a random value or nil.
func some[T any](r *rand.Rand, v T) *T {
	if r.IntN(5) == 0 {
		return nil
	}
	return &v
}

// random makes any candidate, senseless ones included.
func random(r *rand.Rand, name string) offload.Candidate {
	percent := func() *float64 { return some(r, r.Float64()*100) }
	bytes := func(most int64) *int64 { return some(r, r.Int64N(most)) }
	c := builder(name, func(c *offload.Candidate) {
		c.Machine.Systems = [][]string{{"x86_64-linux"}, {"aarch64-linux"}, {"x86_64-linux", "aarch64-linux"}}[r.IntN(3)]
		c.Machine.Features = [][]string{nil, {"kvm"}, {"kvm", "big-parallel"}}[r.IntN(3)]
		c.Machine.MaxJobs = r.IntN(5)
		c.Machine.SpeedFactor = []float64{0, 1, 2.5, math.NaN(), math.Inf(1), -1}[r.IntN(6)]
		c.Machine.Weight = []float64{0, 1, 2, math.NaN()}[r.IntN(4)]
		c.Machine.Drained = r.IntN(10) == 0
		c.Machine.MemoryLimit = []int64{0, 0, 4 * gib}[r.IntN(3)]
		c.Readings = offload.Readings{
			At:  now.Add(-time.Duration(r.IntN(60)) * time.Second),
			CPU: offload.Pressure{Some: percent()}, Memory: offload.Pressure{Full: some(r, r.Float64()*30)}, IO: offload.Pressure{Full: percent()},
			Load1: some(r, r.Float64()*20), Cores: some(r, r.IntN(16)),
			MemoryTotal: bytes(64 * gib), MemoryAvailable: bytes(32 * gib),
			Store: offload.Space{Bytes: bytes(100 * gib), Inodes: bytes(1e6)}, Build: offload.Space{Bytes: bytes(100 * gib)},
			Builds: some(r, r.IntN(5)), OnBattery: some(r, r.IntN(4) == 0), BatteryPercent: percent(),
		}
		leases(r.IntN(4), func(l *offload.Lease) {
			l.Started = now.Add(-time.Duration(r.IntN(300)) * time.Second)
			l.Memory, l.Used, l.Cores = r.Int64N(4*gib), bytes(4*gib), r.IntN(8)
			if r.IntN(2) == 0 {
				l.Ends = now.Add(time.Duration(r.IntN(120)-20) * time.Second)
			}
		})(c)
		c.Breaker = []offload.Breaker{offload.BreakerClosed, offload.BreakerClosed, offload.BreakerHalfOpen, offload.BreakerOpen, offload.BreakerBarred}[r.IntN(5)]
		c.MissingBytes, c.Bandwidth = bytes(10*gib), r.Float64()*1e8
		c.Speed = []float64{0, 0.5, 1, 3, math.NaN(), math.Inf(1)}[r.IntN(6)]
		c.Estimate = offload.Estimate{
			Source: []offload.Source{"", offload.SourceMachine, offload.SourceOthers, offload.SourceGlobal}[r.IntN(4)], Samples: r.IntN(9),
			Relative: r.IntN(2) == 0, MemorySamples: r.IntN(3), P50: r.ExpFloat64() * 100, MemoryP50: r.Int64N(4 * gib), OutputBytes: r.Int64N(gib),
		}
		c.Estimate.P90, c.Estimate.MemoryP90 = c.Estimate.P50*(1+r.Float64()*5), c.Estimate.MemoryP50*(1+r.Int64N(5))
	})
	if name == "here" {
		c.Machine.Local = true
	}
	return c
}

func randomAsk(r *rand.Rand) *offload.Ask {
	return ask(func(a *offload.Ask) {
		a.Willing = r.IntN(2) == 0
		a.Waited = time.Duration(r.IntN(100)) * time.Second
		a.Request.System = []string{"x86_64-linux", "aarch64-linux", "builtin", "riscv64-linux"}[r.IntN(4)]
		a.Request.Features = [][]string{nil, nil, {"kvm"}, {"big-parallel"}}[r.IntN(4)]
		a.Request.Parallel, a.Request.PreferLocal = r.IntN(2) == 0, r.IntN(5) == 0
		if r.IntN(5) == 0 {
			a.Request.Fixed = &offload.FixedOutput{}
		}
	})
}

func randomPolicy(r *rand.Rand) *offload.Policy {
	return &offload.Policy{
		Mode: []offload.Mode{"", offload.ModeLocalFirst, offload.ModeRemoteFirst}[r.IntN(3)], SendTrivial: r.IntN(4) == 0, SendFixed: r.IntN(4) == 0,
	}
}

// eachDecision makes many random questions, the same ones in each run.
func eachDecision(t *testing.T, check func(t *testing.T, r *rand.Rand, a *offload.Ask, candidates []offload.Candidate, p *offload.Policy)) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 5))
		candidates := []offload.Candidate{random(r, "here")}
		for i := range r.IntN(6) {
			candidates = append(candidates, random(r, fmt.Sprintf("m%d", i)))
		}
		check(t, r, randomAsk(r), candidates, randomPolicy(r))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestAnyQuestionHasAWholeAnswer(t *testing.T) {
	eachDecision(t, func(t *testing.T, _ *rand.Rand, a *offload.Ask, candidates []offload.Candidate, p *offload.Policy) {
		c := offload.Pick(a, candidates, p)
		require.Len(t, c.Ranking, len(candidates))
		for _, r := range c.Ranking {
			sum := 0.0
			for _, term := range r.Terms {
				require.False(t, math.IsNaN(term.Seconds) || math.IsInf(term.Seconds, 0), "%+v", r)
				sum += term.Seconds
			}
			require.InDelta(t, sum, r.Cost, 1e-6)
			require.Equal(t, r.Refusal == "", len(r.Terms) > 0, "%+v", r)
		}
	})
}

func TestTheOrderOfCandidatesDoesNotMatter(t *testing.T) {
	eachDecision(t, func(t *testing.T, r *rand.Rand, a *offload.Ask, candidates []offload.Candidate, p *offload.Policy) {
		want := fmt.Sprintf("%+v", offload.Pick(a, candidates, p))
		r.Shuffle(len(candidates), func(i, j int) { candidates[i], candidates[j] = candidates[j], candidates[i] })
		require.Equal(t, want, fmt.Sprintf("%+v", offload.Pick(a, candidates, p)))
	})
}

func TestNeverOnAMachineThatLacksWhatItNeeds(t *testing.T) {
	eachDecision(t, func(t *testing.T, _ *rand.Rand, a *offload.Ask, candidates []offload.Candidate, p *offload.Policy) {
		a.Waited = 0
		c := offload.Pick(a, candidates, p)
		for i := range candidates {
			m := &candidates[i]
			if c.Verdict != offload.Accept || c.Machine != m.Machine.Name {
				continue
			}
			require.False(t, m.Machine.Local, "the hook builds nothing here")
			require.Empty(t, m.Machine.Builds(a.Request.System, a.Request.Features))
			require.False(t, m.Machine.Drained)
			require.NotEqual(t, offload.BreakerOpen, m.Breaker)
			require.Less(t, len(m.Leases), m.Machine.MaxJobs)
			fresh := now.Sub(m.Readings.At) <= 30*time.Second
			if c.Why == offload.WhyCheapest && m.Estimate.Source != "" && m.Estimate.MemorySamples > 0 && m.Estimate.MemoryP90 > 0 && fresh && m.Readings.MemoryAvailable != nil {
				require.LessOrEqual(t, m.Estimate.MemoryP90, *m.Readings.MemoryAvailable)
			}
		}
	})
}

func TestDecliningNeverFailsWhatWaitingSaves(t *testing.T) {
	eachDecision(t, func(t *testing.T, _ *rand.Rand, a *offload.Ask, candidates []offload.Candidate, p *offload.Policy) {
		a.Waited = 0
		c := offload.Pick(a, candidates, p)
		local := candidates[0].Machine
		able := local.Builds(a.Request.System, a.Request.Features) == "" && local.MaxJobs > 0
		if c.Verdict != offload.Decline || able {
			return
		}
		for _, r := range c.Ranking {
			require.False(t, r.Refusal == "" || r.Refusal.Passing(), "%+v", c)
		}
	})
}

// place returns a machine's place in the ranking, past the end if it refuses.
func place(c offload.Choice, machine string) int {
	for i, r := range c.Ranking {
		if r.Machine == machine && r.Refusal == "" {
			return i
		}
	}
	return len(c.Ranking)
}

func TestLessLoadNeverRanksLower(t *testing.T) {
	less := []struct {
		name   string
		change func(r *rand.Rand, c *offload.Candidate)
	}{
		{"cpu pressure", func(r *rand.Rand, c *offload.Candidate) { scale(r, c.Readings.CPU.Some) }},
		{"memory pressure", func(r *rand.Rand, c *offload.Candidate) { scale(r, c.Readings.Memory.Full) }},
		{"io pressure", func(r *rand.Rand, c *offload.Candidate) { scale(r, c.Readings.IO.Full) }},
		{"load", func(r *rand.Rand, c *offload.Candidate) { scale(r, c.Readings.Load1) }},
		{"memory taken", func(_ *rand.Rand, c *offload.Candidate) {
			if c.Readings.MemoryAvailable != nil {
				c.Readings.MemoryAvailable = new(*c.Readings.MemoryAvailable + gib)
			}
		}},
		{"disk taken", func(_ *rand.Rand, c *offload.Candidate) {
			if c.Readings.Store.Bytes != nil {
				c.Readings.Store.Bytes = new(*c.Readings.Store.Bytes + gib)
			}
		}},
		{"bytes missing", func(_ *rand.Rand, c *offload.Candidate) {
			if c.MissingBytes != nil {
				c.MissingBytes = new(*c.MissingBytes / 2)
			}
		}},
		{"leases", func(_ *rand.Rand, c *offload.Candidate) {
			if len(c.Leases) > 0 {
				c.Leases = c.Leases[1:]
			}
		}},
		{"others' builds", func(_ *rand.Rand, c *offload.Candidate) {
			if c.Readings.Builds != nil {
				c.Readings.Builds = new(*c.Readings.Builds / 2)
			}
		}},
	}
	eachDecision(t, func(t *testing.T, r *rand.Rand, a *offload.Ask, candidates []offload.Candidate, p *offload.Policy) {
		i := r.IntN(len(candidates))
		before := offload.Pick(a, candidates, p)
		change := less[r.IntN(len(less))]
		change.change(r, &candidates[i])
		after := offload.Pick(a, candidates, p)
		name := candidates[i].Machine.Name
		require.LessOrEqual(t, place(after, name), place(before, name), "less %s on %s: %+v became %+v", change.name, name, before, after)
	})
}

// scale lets a reading's value shrink, in a copy.
func scale(r *rand.Rand, v *float64) {
	if v != nil {
		*v *= r.Float64()
	}
}

func TestTwentyBuildsFollowTheLoad(t *testing.T) {
	busy := func(c *offload.Candidate) { c.Readings.Load1, c.Readings.CPU.Some = new(12.0), new(60.0) }
	for swapped, want := range map[bool]string{false: "a", true: "b"} {
		counts := make(map[string]int)
		candidates := []offload.Candidate{here(busy, busy), builder("a"), builder("b")}
		busy(&candidates[1+boolIndex(!swapped)])
		for i := range candidates {
			candidates[i].Machine.MaxJobs = 20
		}
		for range 20 {
			c := offload.Pick(ask(), candidates, nil)
			counts[c.Machine]++
			for i := range candidates {
				if candidates[i].Machine.Name == c.Machine {
					candidates[i].Leases = append(candidates[i].Leases, offload.Lease{Started: now, Memory: gib / 2})
				}
			}
		}
		require.GreaterOrEqual(t, counts[want], 16, "%v", counts)
	}
}

func TestBuildsOfOneSecondSpread(t *testing.T) {
	candidates := []offload.Candidate{here(), builder("a"), builder("b", func(c *offload.Candidate) { c.Readings.Cores = new(16) })}
	counts := make(map[string]int)
	for range 30 {
		for i := range candidates {
			candidates[i].Machine.MaxJobs = 30
		}
		c := offload.Pick(ask(func(a *offload.Ask) { a.Request.Parallel = true }), candidates, nil)
		counts[c.Machine]++
		for i := range candidates {
			if candidates[i].Machine.Name == c.Machine {
				candidates[i].Leases = append(candidates[i].Leases, offload.Lease{Started: now, Memory: 1, Cores: 8})
			}
		}
	}
	require.InDelta(t, 2, float64(counts["b"])/float64(counts["a"]), 0.5, "twice as many where there are twice as many cores: %v", counts)
}

func boolIndex(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestPlainFormula(t *testing.T) {
	machine := func(name string, load int, speed float64) offload.Loaded {
		return offload.Loaded{
			Machine: &offload.Machine{Name: name, Systems: []string{"x86_64-linux"}, MaxJobs: 4, SpeedFactor: speed}, Load: load,
		}
	}
	tests := []struct {
		name     string
		machines []offload.Loaded
		local    bool
		verdict  offload.Verdict
		machine  string
	}{
		{"none", nil, false, offload.Decline, ""},
		{"the first of equals", []offload.Loaded{machine("b", 0, 1), machine("a", 0, 1)}, false, offload.Accept, "b"},
		{"the emptier", []offload.Loaded{machine("a", 2, 1), machine("b", 1, 1)}, false, offload.Accept, "b"},
		{"by speed", []offload.Loaded{machine("a", 1, 1), machine("b", 2, 4)}, false, offload.Accept, "b"},
		{"the faster of equals", []offload.Loaded{machine("a", 1, 1), machine("b", 2, 2)}, false, offload.Accept, "b"},
		{"not a full one", []offload.Loaded{machine("a", 4, 100), machine("b", 3, 1)}, false, offload.Accept, "b"},
		{"all full", []offload.Loaded{machine("a", 4, 1)}, false, offload.Postpone, ""},
		{"all full, but here", []offload.Loaded{machine("a", 4, 1)}, true, offload.Decline, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			verdict, name := offload.PlainFormula(tt.machines, "x86_64-linux", nil, tt.local)
			require.Equal(t, tt.verdict, verdict)
			require.Equal(t, tt.machine, name)
		})
	}
	verdict, _ := offload.PlainFormula([]offload.Loaded{machine("a", 0, 1)}, "aarch64-linux", nil, false)
	require.Equal(t, offload.Decline, verdict)
	verdict, name := offload.PlainFormula([]offload.Loaded{machine("a", 0, 1)}, "builtin", nil, false)
	require.Equal(t, offload.Accept, verdict)
	require.Equal(t, "a", name)
}

func BenchmarkPick(b *testing.B) {
	candidates := []offload.Candidate{here()}
	for i := range 49 {
		candidates = append(candidates, builder(fmt.Sprintf("m%02d", i), func(c *offload.Candidate) { c.Readings.Load1 = new(float64(i % 9)) }, leases(i%4, nil)))
	}
	a := ask()
	b.ReportAllocs()
	times := make([]time.Duration, 0, 1<<16)
	for b.Loop() {
		started := time.Now()
		offload.Pick(a, candidates, nil)
		d := time.Since(started)
		if len(times) < cap(times) {
			times = append(times, d)
		}
	}
	b.ReportMetric(float64(percentile(times, 0.99).Microseconds()), "p99-µs")
	b.ReportMetric(float64(len(candidates)), "machines")
}

func percentile(times []time.Duration, part float64) time.Duration {
	slices.Sort(times)
	return times[min(int(part*float64(len(times))), len(times)-1)]
}
