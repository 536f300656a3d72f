package gc

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// plan says what is to become of each path.
type plan struct {
	*components
	g *catalog.Graph
	e *edges

	reason []Reason // of each path; zero is not decided
	by     []int32  // the path that refers to it, -1 if the reason is its own
	pins   map[int32][]string

	used    []int64 // of each component, the latest use of it or of what refers to it
	usedBy  []int32 // of each component, the path whose use that is
	level   []int32 // of each victim, the longest way to it from a victim that nothing refers to
	victims []int32 // components, what refers to others first

	needed   []bool  // of each archive
	size     int64   // of those that are
	before   int64   // of all
	needless []int64 // ids of archives that no path has
	excess   int64
}

func newPlan(g *catalog.Graph, o *Options) *plan {
	n := len(g.Paths)
	p := &plan{g: g, e: newEdges(g), reason: make([]Reason, n), by: make([]int32, n), needed: make([]bool, len(g.Archives)),
		pins: make(map[int32][]string)}
	p.components = newComponents(p.e)
	p.keepStrong()
	p.findUse()
	p.countArchives()
	p.keepUsed(o)
	p.orderVictims()
	return p
}

// keepStrong marks what rule 1 keeps.
func (p *plan) keepStrong() {
	settled := make(map[place]int32, len(p.g.Pins))
	for _, pin := range p.g.Pins {
		if pin.Expires.IsZero() || pin.Expires.UnixMilli() > p.g.At {
			settled[place{pin.Cache, string(pin.Path.HashPart())}] = -1
		}
	}
	again := make(map[place]bool)
	for i := range p.g.Paths {
		if q := &p.g.Paths[i]; q.State == catalog.Publishing {
			again[placeOf(q)] = true
		}
	}
	var roots []int32
	for i := range p.g.Paths {
		q, n := &p.g.Paths[i], int32(i)
		at := placeOf(q)
		if _, pinned := settled[at]; pinned && q.State == catalog.Live {
			settled[at] = n
		}
		switch {
		case q.State == catalog.Publishing || again[at]:
			p.reason[n] = Publishing
		case q.State == catalog.Deleting && q.Until > p.g.At:
			p.reason[n] = BeingDeleted
		case q.State == catalog.Deleting:
			p.reason[n] = HalfDeleted
			continue
		case q.LeasedUntil > p.g.At:
			p.reason[n] = Leased
		default:
			continue
		}
		p.by[n] = -1
		roots = append(roots, n)
	}
	for _, pin := range p.g.Pins {
		n, ok := settled[place{pin.Cache, string(pin.Path.HashPart())}]
		if !ok || n < 0 || !pin.Expires.IsZero() && pin.Expires.UnixMilli() <= p.g.At {
			continue
		}
		if p.pins[n] == nil {
			roots = append(roots, n)
		}
		p.pins[n] = append(p.pins[n], pin.Name)
		p.reason[n], p.by[n] = Pinned, -1
	}
	p.keepClosure(roots)
}

type place struct{ cache, hash string }

func placeOf(p *catalog.GraphPath) place { return place{p.Cache, string(p.Path.HashPart())} }

// keepClosure marks what roots refer to, and needs the archives of all. A path that is half deleted stays so: what
// refers to it is itself being deleted.
func (p *plan) keepClosure(stack []int32) {
	for _, n := range stack {
		p.need(n)
	}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, m := range p.e.of(n) {
			if p.reason[m] == 0 {
				p.reason[m], p.by[m] = Referenced, n
				p.need(m)
				stack = append(stack, m)
			}
		}
	}
}

func (p *plan) need(n int32) {
	if a := p.g.Paths[n].Archive; !p.needed[a] {
		p.needed[a] = true
		p.size += p.g.Archives[a].FileSize
	}
}

// findUse hands each path's use on to what it refers to.
func (p *plan) findUse() {
	p.used, p.usedBy = make([]int64, p.count()), make([]int32, p.count())
	for c := range p.used {
		p.used[c] = math.MinInt64
	}
	for c := p.count() - 1; c >= 0; c-- {
		for _, n := range p.members(c) {
			if at := p.g.Paths[n].LastUsed; at > p.used[c] {
				p.used[c], p.usedBy[c] = at, n
			}
		}
		for _, n := range p.members(c) {
			for _, m := range p.e.of(n) {
				if to := p.of[m]; p.used[c] > p.used[to] {
					p.used[to], p.usedBy[to] = p.used[c], p.usedBy[c]
				}
			}
		}
	}
}

// countArchives counts what is kept without a path, and finds what needs to be kept by none.
func (p *plan) countArchives() {
	has := make([]bool, len(p.g.Archives))
	for i := range p.g.Paths {
		has[p.g.Paths[i].Archive] = true
	}
	for i := range p.g.Archives {
		a := &p.g.Archives[i]
		if a.State == catalog.Deleting && a.Until > p.g.At {
			continue // somebody is at it
		}
		p.before += a.FileSize
		switch {
		case a.State != catalog.Deleting && a.LeasedUntil > p.g.At:
			if !p.needed[i] {
				p.needed[i] = true
				p.size += a.FileSize
			}
		case !has[i]:
			p.needless = append(p.needless, a.ID)
		}
	}
}

// keepUsed adds what rules 2 and 3 keep, component by component: what was used last first, and of that what is referred
// to first, so that whatever is the last to fit has all it needs.
func (p *plan) keepUsed(o *Options) {
	if o.MaxSize > 0 {
		p.excess = max(0, p.size-o.MaxSize)
	}
	oldest := int64(math.MinInt64)
	if o.KeepUsed > 0 {
		oldest = p.g.At - o.KeepUsed.Milliseconds()
	}
	var candidates []int32
	for c := range p.count() {
		if p.reason[p.members(c)[0]] == 0 {
			candidates = append(candidates, c)
		}
	}
	slices.SortFunc(candidates, func(a, b int32) int {
		return cmp.Or(cmp.Compare(p.used[b], p.used[a]), cmp.Compare(a, b))
	})
	full := false
	for _, c := range candidates {
		reason := Used
		if full = full || o.MaxSize > 0 && p.size+p.wants(c) > o.MaxSize; full {
			reason = NoRoom
		}
		if p.used[c] < oldest {
			reason = TooOld
		}
		for _, n := range p.members(c) {
			p.reason[n], p.by[n] = reason, -1
			if p.usedBy[c] != n {
				p.by[n] = p.usedBy[c]
			}
			if reason == Used {
				p.need(n)
			}
		}
	}
}

// wants is how many bytes a component's archives would add.
func (p *plan) wants(c int32) int64 {
	var size int64
	var counted []int
	for _, n := range p.members(c) {
		if a := p.g.Paths[n].Archive; !p.needed[a] && !slices.Contains(counted, a) {
			size += p.g.Archives[a].FileSize
			counted = append(counted, a)
		}
	}
	return size
}

// orderVictims sorts them by level, and within that by age.
func (p *plan) orderVictims() {
	p.level = make([]int32, p.count())
	for c := p.count() - 1; c >= 0; c-- {
		if p.reason[p.members(c)[0]].keeps() {
			continue
		}
		p.victims = append(p.victims, c)
		for _, n := range p.members(c) {
			for _, m := range p.e.of(n) {
				if to := p.of[m]; to != c {
					p.level[to] = max(p.level[to], p.level[c]+1)
				}
			}
		}
	}
	slices.SortStableFunc(p.victims, func(a, b int32) int {
		return cmp.Or(cmp.Compare(p.level[a], p.level[b]), cmp.Compare(p.used[a], p.used[b]))
	})
}

// report writes the plan down, as if it were carried out.
func (p *plan) report(o *Options) *Report {
	r := &Report{DryRun: o.DryRun, Paths: make([]Decision, len(p.g.Paths)), Before: p.before, Excess: p.excess}
	for i := range p.g.Paths {
		q, n := &p.g.Paths[i], int32(i)
		d := &r.Paths[i]
		*d = Decision{Cache: q.Cache, Path: q.Path, Size: p.g.Archives[q.Archive].FileSize, Kept: p.reason[n].keeps(),
			Reason: p.reason[n], Pins: p.pins[n], LastUsed: time.UnixMilli(p.used[p.of[n]])}
		if p.by[n] >= 0 && p.by[n] != n {
			d.By = p.g.Paths[p.by[n]].Path
		}
		if d.Kept {
			r.Kept++
		} else {
			r.Deleted++
		}
	}
	r.After = p.size
	r.Freed = p.before - p.size
	return r
}
