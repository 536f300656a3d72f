package offload

import (
	"math"
	"time"
)

// Mode is where builds may go. It is a preference, not a ban: what only a builder can build goes there in any mode,
// and what only this machine can build stays. For a slot where the mode wants it a build waits as long as it takes.
type Mode string

// The modes.
const (
	// ModeAuto: the cheapest machine.
	ModeAuto Mode = "auto"
	// ModeLocalFirst: this machine, for all that it is able to build.
	ModeLocalFirst Mode = "local"
	// ModeRemoteFirst: builders, for all that they are able to build, trivial builds included.
	ModeRemoteFirst Mode = "remote"
)

// Policy holds the figures of the decision. In each field the zero value stands for the default,
// and in those that reserve or charge something a negative one for nothing.
type Policy struct {
	// Mode is ModeAuto by default.
	Mode Mode `toml:"-"`
	// SendTrivial lets trivial builds go to builders; by default they stay as long as this machine takes them.
	SendTrivial bool `toml:"send-trivial"`
	// SendFixed does the same for fixed outputs.
	SendFixed bool `toml:"send-fixed"`

	// Patience is how long refusals that pass may hold a build up; 2 minutes.
	Patience time.Duration `toml:"patience"`
	// MaxWait is the longest wait for a slot of a machine that is worth it; 30 s.
	MaxWait time.Duration `toml:"max-wait"`
	// StaleAfter is the age at which readings are worth no more than none; 30 s.
	StaleAfter time.Duration `toml:"stale-after"`

	// MaxCPU is the cpu pressure (some) above which a machine gets no more; 80 %.
	MaxCPU float64 `toml:"max-cpu"`
	// MaxMemory is the memory pressure (full) above which a machine gets no more; 20 %.
	MaxMemory float64 `toml:"max-memory"`
	// MaxIO is the io pressure (full) above which a machine gets no more; 80 %.
	MaxIO float64 `toml:"max-io"`
	// MaxLoad is the load for each core above which a machine gets no more, if it has no pressure to tell; 2.
	MaxLoad float64 `toml:"max-load"`

	// MemoryReserve is memory, in bytes, that is left alone on every machine that has no figure of its own; 1 GiB.
	MemoryReserve int64 `toml:"memory-reserve"`
	// MinDisk is what must be left, in bytes, of the store's and the build folder's file systems after the build; 2 GiB.
	MinDisk int64 `toml:"min-disk"`
	// MinInodes must be left of them; 50,000.
	MinInodes int64 `toml:"min-inodes"`
	// MinBattery is the charge below which a machine on battery builds nothing but trivia; 20 %.
	MinBattery float64 `toml:"min-battery"`

	// LocalWait is what a small build is taken to wait for one of Nix's own slots if all are taken; 10 s.
	LocalWait float64 `toml:"local-wait"`
	// SendSeconds is what giving a build to a builder costs however small it is; 1 s.
	SendSeconds float64 `toml:"send-seconds"`
	// Bandwidth, in bytes a second, is assumed of a builder until it is measured; 10 MB/s.
	Bandwidth float64 `toml:"bandwidth"`
	// MissingBytes is assumed to be missing on a builder until that is known; 64 MiB.
	MissingBytes int64 `toml:"missing-bytes"`
	// HeavyHere is the part of its time that a heavy build on this machine costs on top, for its user feels it; 0.5.
	HeavyHere float64 `toml:"heavy-here"`
	// OnBattery is the part of its time that a build on battery costs on top; 1.
	OnBattery float64 `toml:"on-battery"`
	// Unknown is the part of its time that a build costs on top where none of load, memory and disk is known; 0.3.
	Unknown float64 `toml:"unknown"`
	// ProbeSeconds is what the first build on a machine that failed of late costs on top; 10 s.
	ProbeSeconds float64 `toml:"probe-seconds"`
}

func (p *Policy) withDefaults() Policy {
	var c Policy
	if p != nil {
		c = *p
	}
	if c.Mode == "" {
		c.Mode = ModeAuto
	}
	for _, d := range []struct {
		field     *time.Duration
		otherwise time.Duration
	}{{&c.Patience, 2 * time.Minute}, {&c.MaxWait, 30 * time.Second}, {&c.StaleAfter, 30 * time.Second}} {
		if *d.field <= 0 {
			*d.field = d.otherwise
		}
	}
	for _, f := range []struct {
		field     *float64
		otherwise float64
	}{
		{&c.MaxCPU, 80},
		{&c.MaxMemory, 20},
		{&c.MaxIO, 80},
		{&c.MaxLoad, 2},
		{&c.Bandwidth, 10e6},
	} {
		*f.field = sane(*f.field, f.otherwise)
	}
	c.MinBattery = orNothing(c.MinBattery, 20)
	c.LocalWait = orNothing(c.LocalWait, 10)
	c.SendSeconds = orNothing(c.SendSeconds, 1)
	c.HeavyHere = orNothing(c.HeavyHere, 0.5)
	c.OnBattery = orNothing(c.OnBattery, 1)
	c.Unknown = orNothing(c.Unknown, 0.3)
	c.ProbeSeconds = orNothing(c.ProbeSeconds, 10)
	c.MemoryReserve = orNothing(c.MemoryReserve, 1<<30)
	c.MinDisk = orNothing(c.MinDisk, 2<<30)
	c.MinInodes = orNothing(c.MinInodes, 50_000)
	c.MissingBytes = orNothing(c.MissingBytes, 64<<20)
	return c
}

// orNothing takes a negative setting for 0, and one that is not there, or no number, for the other.
func orNothing[T int64 | float64](v, otherwise T) T {
	switch {
	case v < 0:
		return 0
	case v > 0 && float64(v) <= math.MaxFloat64:
		return v
	}
	return otherwise
}
