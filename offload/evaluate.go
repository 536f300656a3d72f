package offload

import (
	"fmt"
	"slices"
	"time"
)

// settle is how long a build takes to show in the load average and in the memory that is available.
const settle = 30 * time.Second

// leaseMemory is assumed of a running build of which nothing is known.
const leaseMemory = 512 << 20

// evaluation is one candidate's part of a decision.
type evaluation struct {
	*picker
	c        *Candidate
	readings *Readings // fresh ones
	estimate *Estimate
}

func (c *Candidate) speed() float64 {
	return sane(c.Speed, sane(c.Machine.SpeedFactor, 1))
}

// refusal returns why the machine may not take the build, with figures. What stays is asked before what passes.
func (e *evaluation) refusal() (Refusal, string) {
	for _, ask := range []func() (Refusal, string){e.refusesKind, e.refusesPlace, e.refusesMemoryEver} {
		if r, detail := ask(); r != "" {
			return r, detail
		}
	}
	if e.c.Machine.Local && e.ask.Willing && (e.stays || e.policy.Mode == ModeLocalFirst) {
		return "", "" // it is wanted here: a busy moment is no reason
	}
	if down := e.c.down(); down != "" {
		return down, ""
	}
	for _, ask := range []func() (Refusal, string){
		e.refusesSlots, e.refusesMemoryNow, e.refusesPressure, e.refusesSpace, e.refusesBattery,
	} {
		if r, detail := ask(); r != "" {
			return r, detail
		}
	}
	return "", ""
}

func (e *evaluation) refusesKind() (Refusal, string) {
	r := e.ask.Request
	if refusal := e.c.Machine.Builds(r.System, r.Features); refusal != "" {
		return refusal, fmt.Sprintf("wanted %s %v, has %v %v, mandatory %v",
			r.System, r.Features, e.c.Machine.Systems, e.c.Machine.Features, e.c.Machine.MandatoryFeatures)
	}
	if e.c.Machine.MaxJobs <= 0 {
		return NoJobs, ""
	}
	return "", ""
}

func (e *evaluation) refusesPlace() (Refusal, string) {
	switch local := e.c.Machine.Local; {
	case !local && e.stays:
		return StaysLocal, string(e.signs[0])
	case !local && e.policy.Mode == ModeLocalFirst && e.localFits:
		return ModeLocal, ""
	case local && e.policy.Mode == ModeRemoteFirst && e.remoteFits:
		return ModeRemote, ""
	}
	return "", ""
}

// need is the memory that the build is expected to take. A figure that no build of the package stands behind is taken
// at its middle, and never keeps a build from a machine for good.
func (e *evaluation) need() (bytes int64, measured bool) {
	switch {
	case e.estimate.MemorySamples > 0 && e.estimate.MemoryP90 > 0:
		return e.estimate.MemoryP90, true
	case e.estimate.MemoryP50 > 0:
		return e.estimate.MemoryP50, false
	}
	return e.prior.MemoryP50, false
}

func (e *evaluation) reserve() int64 {
	return orDefault(e.c.Machine.MemoryReserve, e.policy.MemoryReserve)
}

func (e *evaluation) refusesMemoryEver() (Refusal, string) {
	need, measured := e.need()
	if !measured {
		return "", ""
	}
	if limit := e.c.Machine.MemoryLimit; limit > 0 && need > limit {
		return NeverFits, fmt.Sprintf("needs %s, limit %s", size(need), size(limit))
	}
	if total := e.readings.MemoryTotal; total != nil && need > *total-e.reserve() {
		return NeverFits, fmt.Sprintf("needs %s, has %s less %s", size(need), size(*total), size(e.reserve()))
	}
	return "", ""
}

func (e *evaluation) refusesSlots() (Refusal, string) {
	if e.c.Machine.Local && !e.ask.Willing && !(e.small() && e.ask.Waited < e.policy.MaxWait) {
		return SlotsFull, "as Nix says"
	}
	if wait, ok := e.wait(); !ok || wait > e.policy.MaxWait.Seconds() || wait > 0 && e.ask.Waited >= e.policy.Patience {
		return SlotsFull, fmt.Sprintf("%d of %d", e.running(), e.c.Machine.MaxJobs)
	}
	return "", ""
}

// running is how many builds the machine has, whoever asked for them: what it counted and what we gave it since.
func (e *evaluation) running() int {
	if e.readings.Builds == nil {
		return len(e.c.Leases)
	}
	counted := *e.readings.Builds
	for i := range e.c.Leases {
		if e.c.Leases[i].Started.After(e.readings.At) {
			counted++
		}
	}
	return max(counted, len(e.c.Leases))
}

// wait returns the seconds until there is a slot, and false if nobody knows when.
// Nix alone knows of this machine's: they are said to be full, or free.
func (e *evaluation) wait() (float64, bool) {
	if e.c.Machine.Local {
		if e.ask.Willing {
			return 0, true
		}
		return e.policy.LocalWait, true
	}
	over := e.running() - e.c.Machine.MaxJobs + 1 // this many must end
	if over <= 0 {
		return 0, true
	}
	var ends []time.Time
	for i := range e.c.Leases {
		if !e.c.Leases[i].Ends.IsZero() {
			ends = append(ends, e.c.Leases[i].Ends)
		}
	}
	if over > len(ends) {
		return 0, false
	}
	slices.SortFunc(ends, time.Time.Compare)
	return max(ends[over-1].Sub(e.ask.Now).Seconds(), 1), true
}

func (e *evaluation) refusesMemoryNow() (Refusal, string) {
	need, _ := e.need()
	if limit := e.c.Machine.MemoryLimit; limit > 0 {
		expected := int64(0)
		for i := range e.c.Leases {
			expected += orDefault(e.c.Leases[i].Memory, leaseMemory)
		}
		if expected+need > limit {
			return MemoryShort, fmt.Sprintf("needs %s, %s of limit %s are given away", size(need), size(expected), size(limit))
		}
	}
	available := e.readings.MemoryAvailable
	if available == nil {
		return "", ""
	}
	pending := int64(0)
	for i := range e.c.Leases {
		pending += e.willTake(&e.c.Leases[i])
	}
	if need > *available-e.reserve()-pending {
		return MemoryShort, fmt.Sprintf("needs %s, %s free less %s reserved and %s that running builds will take",
			size(need), size(*available), size(e.reserve()), size(pending))
	}
	return "", ""
}

// willTake is how much more memory a running build is expected to take than the readings show.
// Of one that ran for a while with nobody looking, half is taken to be there.
func (e *evaluation) willTake(l *Lease) int64 {
	expected := orDefault(l.Memory, leaseMemory)
	switch {
	case l.Used != nil:
		return max(expected-*l.Used, 0)
	case e.settled(l):
		return expected / 2
	}
	return expected
}

// settled says whether the readings show a lease.
func (e *evaluation) settled(l *Lease) bool { return e.readings.At.Sub(l.Started) >= settle }

func (e *evaluation) refusesPressure() (Refusal, string) {
	r := e.readings
	switch {
	case above(r.Memory.Full, e.policy.MaxMemory):
		return MemoryPressure, fmt.Sprintf("%.0f %% of the time, at most %.0f", *r.Memory.Full, e.policy.MaxMemory)
	case above(r.CPU.Some, e.policy.MaxCPU):
		return CPUPressure, fmt.Sprintf("%.0f %% of the time, at most %.0f", *r.CPU.Some, e.policy.MaxCPU)
	case above(r.IO.Full, e.policy.MaxIO):
		return IOPressure, fmt.Sprintf("%.0f %% of the time, at most %.0f", *r.IO.Full, e.policy.MaxIO)
	case r.CPU.Some == nil && r.Cores != nil && above(r.Load1, e.policy.MaxLoad*float64(*r.Cores)):
		return CPUPressure, fmt.Sprintf("load %.1f on %d cores", *r.Load1, *r.Cores)
	}
	return "", ""
}

func above(v *float64, limit float64) bool { return v != nil && *v > limit }

func (e *evaluation) refusesSpace() (Refusal, string) {
	output := max(e.estimate.OutputBytes, 0)
	for _, s := range []struct {
		name  string
		space Space
		takes int64
	}{
		{"store", e.readings.Store, e.missing() + output},
		{"build folder", e.readings.Build, output},
	} {
		if s.space.Bytes != nil && *s.space.Bytes-s.takes < e.policy.MinDisk {
			return DiskShort, fmt.Sprintf("%s: %s free, takes %s, %s must be left",
				s.name, size(*s.space.Bytes), size(s.takes), size(e.policy.MinDisk))
		}
		if s.space.Inodes != nil && *s.space.Inodes < e.policy.MinInodes {
			return InodesShort, fmt.Sprintf("%s: %d free, at least %d", s.name, *s.space.Inodes, e.policy.MinInodes)
		}
	}
	return "", ""
}

func (e *evaluation) refusesBattery() (Refusal, string) {
	r := e.readings
	if e.class != Trivial && onBattery(r) && r.BatteryPercent != nil && *r.BatteryPercent < e.policy.MinBattery {
		return BatteryLow, fmt.Sprintf("%.0f %%, at least %.0f", *r.BatteryPercent, e.policy.MinBattery)
	}
	return "", ""
}

func onBattery(r *Readings) bool { return r.OnBattery != nil && *r.OnBattery }

// size writes bytes for people.
func size(n int64) string {
	switch f := float64(n); {
	case n >= 1<<30 || n <= -1<<30:
		return fmt.Sprintf("%.1f GiB", f/(1<<30))
	case n >= 1<<20 || n <= -1<<20:
		return fmt.Sprintf("%.0f MiB", f/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}
