package history

import (
	"cmp"
	"context"
	"slices"

	"github.com/voidnxlab/nixtrap/offload"
)

const (
	enoughHere   = 2
	enoughLabels = 5
	enoughAll    = 20
	enoughWorst  = 5   // builds that say something about the worst of ten
	margin       = 1.5 // for fewer, and for a build that ran out of memory
)

// Estimate says what a request takes on one machine. An estimate without a Source knows nothing.
func (d *DB) Estimate(ctx context.Context, r *offload.Request, machine string) offload.Estimate {
	return d.Estimates(ctx, r, []string{machine})[0]
}

// Estimates says what a request takes on each of the machines, in their order. It takes well under a millisecond:
// if the context ends, or other processes' builds can't be read, it answers from what it knew before.
func (d *DB) Estimates(ctx context.Context, r *offload.Request, machines []string) []offload.Estimate {
	d.index.refresh(ctx)
	d.index.mu.RLock()
	defer d.index.mu.RUnlock()
	return d.index.estimates(r, machines)
}

func (x *index) estimates(r *offload.Request, machines []string) []offload.Estimate {
	own := x.groups[key{r.Key(), r.System}]
	pooled := x.pooled(r, own)
	if ours := x.ofGroups([]*group{own}, nil); ours.MemorySamples > 0 && pooled.MemorySamples == 0 {
		// no build of it succeeded, but what it took is known
		if pooled.Source == "" {
			pooled = r.Prior()
		}
		pooled.MemoryP50, pooled.MemoryP90, pooled.MemorySamples = ours.MemoryP50, ours.MemoryP90, ours.MemorySamples
	}
	estimates := make([]offload.Estimate, len(machines))
	for i, machine := range machines {
		estimates[i] = x.onMachine(own, pooled, machine)
	}
	return estimates
}

// sample is one build by what it says of others.
type sample struct {
	seconds float64 // as on a machine of speed 1, or the machine's own; negative if it did not succeed
	peak    int64   // 0 if unknown
	output  int64
	at      int64
}

func (x *index) scaled(r *row) sample {
	s := measured(r)
	if speed, ok := x.speeds[r.machine]; ok && s.seconds > 0 {
		s.seconds *= speed
	}
	return s
}

func measured(r *row) sample {
	s := sample{seconds: r.wall, peak: r.peak, output: r.output, at: r.at}
	if r.result != offload.Built {
		s.seconds, s.output = -1, 0
	}
	if r.result == offload.OutOfMemory {
		s.peak = int64(float64(s.peak) * margin)
	}
	return s
}

// pooled is the best estimate that is no single machine's, for a machine of speed 1.
func (x *index) pooled(r *offload.Request, own *group) offload.Estimate {
	if e := x.ofGroups([]*group{own}, nil); e.Samples > 0 {
		e.Source = offload.SourceOthers
		return e
	}
	systems := []string{r.System, ""}
	if e := x.ofGroups(x.stems[r.Stem], systems); e.Samples > 0 {
		e.Source = offload.SourceStem
		return e
	}
	if label := r.Label(); label != "" {
		if e := x.ofRows(x.labels[label], recentLabels); e.Samples >= enoughLabels {
			e.Source, e.MemorySamples = offload.SourceLabel, 0
			return e
		}
		return offload.Estimate{}
	}
	if e := x.ofRows(x.all, recentAll); e.Samples >= enoughAll {
		e.Source, e.MemorySamples = offload.SourceGlobal, 0
		return e
	}
	return offload.Estimate{}
}

// ofGroups pools the last builds of packages for one of the systems; nil is any.
func (x *index) ofGroups(groups []*group, systems []string) offload.Estimate {
	var samples []sample
	for _, g := range groups {
		if g == nil || systems != nil && !slices.Contains(systems, g.key.system) {
			continue
		}
		for _, c := range g.cells {
			for _, r := range c.rows[max(len(c.rows)-recent, 0):] {
				samples = append(samples, x.scaled(r))
			}
		}
	}
	slices.SortStableFunc(samples, func(a, b sample) int { return cmp.Compare(a.at, b.at) })
	return summarise(samples[max(len(samples)-recent, 0):])
}

func (x *index) ofRows(rows []*row, n int) offload.Estimate {
	samples := make([]sample, 0, n)
	for _, r := range rows[max(len(rows)-n, 0):] {
		samples = append(samples, x.scaled(r))
	}
	return summarise(samples)
}

// onMachine makes the estimate for a machine: its own builds if there are enough, or what is known elsewhere, scaled.
func (x *index) onMachine(own *group, pooled offload.Estimate, machine string) offload.Estimate {
	if own != nil {
		rows := own.find(machine).rows
		samples := make([]sample, 0, recent)
		for _, r := range rows[max(len(rows)-recent, 0):] {
			samples = append(samples, measured(r))
		}
		e := summarise(samples)
		if e.Samples >= enoughHere || e.Samples > 0 && e.Samples == pooled.Samples {
			e.Source = offload.SourceMachine
			if e.MemoryP90 == 0 {
				e.MemoryP50, e.MemoryP90, e.MemorySamples = pooled.MemoryP50, pooled.MemoryP90, pooled.MemorySamples
			}
			if e.OutputBytes == 0 {
				e.OutputBytes = pooled.OutputBytes
			}
			return e
		}
	}
	if pooled.Source == "" {
		return pooled
	}
	e := pooled
	if speed, ok := x.speeds[machine]; ok {
		e.P50, e.P90 = e.P50/speed, e.P90/speed
	} else {
		e.Relative = true
	}
	return e
}

// summarise says what samples have in common. Samples counts those that succeeded, if any did; memory takes all.
func summarise(samples []sample) (e offload.Estimate) {
	var seconds, peaks, outputs []float64
	for _, s := range samples {
		if s.seconds >= 0 {
			seconds = append(seconds, s.seconds)
		}
		if s.peak > 0 {
			peaks = append(peaks, float64(s.peak))
		}
		if s.output > 0 {
			outputs = append(outputs, float64(s.output))
		}
	}
	e.Samples, e.MemorySamples = len(seconds), len(peaks)
	e.P50, e.P90 = spread(seconds)
	middle, most := spread(peaks)
	e.MemoryP50, e.MemoryP90 = int64(middle), int64(most)
	middle, _ = spread(outputs)
	e.OutputBytes = int64(middle)
	return e
}

// spread returns the median and the nearest rank of nine in ten. The values are sorted in place.
func spread(values []float64) (p50, p90 float64) {
	if len(values) == 0 {
		return 0, 0
	}
	slices.Sort(values)
	p50 = median(values)
	p90 = values[(len(values)*9+9)/10-1]
	if len(values) < enoughWorst {
		p90 *= margin
	}
	return p50, p90
}

// median of values that are sorted.
func median(values []float64) float64 {
	n := len(values)
	if n%2 == 1 {
		return values[n/2]
	}
	return (values[n/2-1] + values[n/2]) / 2
}
