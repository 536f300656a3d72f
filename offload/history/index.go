package history

import (
	"cmp"
	"context"
	"database/sql"
	"math"
	"slices"
	"sync"

	"github.com/voidnxlab/nixtrap/offload"
)

const (
	recent       = 20  // builds that an estimate rests on
	recentLabels = 200 // builds with a label that are remembered together
	recentAll    = 500
)

// key is what builds of one package have in common. Seeds have no system.
type key struct{ name, system string }

// cell has the last builds of one package on one machine, the oldest first.
type cell struct {
	machine string
	rows    []*row
	built   int     // of rows, those that succeeded
	log     float64 // the logarithm of their median duration in seconds, at least 2; 0 if that says nothing about speed
}

// group has a package's cells.
type group struct {
	key   key
	cells []*cell // in the order in which the machines came
}

// index holds the builds in memory. The database's file is where they come from.
type index struct {
	options *Options

	// refreshing lets one goroutine at a time read the file. It guards reader, seen and last.
	refreshing sync.Mutex
	reader     *sql.DB
	seen       int64 // the reader's data_version
	last       int64 // the highest row that was read
	fresh      bool  // nothing was read from this reader yet

	mu     sync.RWMutex // guards what follows
	groups map[key]*group
	order  []*group // as they came
	stems  map[string][]*group
	labels map[string][]*row
	all    []*row
	rows   int                // how many came since reset
	speeds map[string]float64 // of machines that are known to compare
}

func (x *index) reset(o *Options) {
	x.options = o
	x.groups, x.stems, x.labels = make(map[key]*group), make(map[string][]*group), make(map[string][]*row)
	x.order, x.all, x.speeds, x.rows = nil, nil, nil, 0
}

// attach reads from another file from now on, or from none. What is in memory stays, until a file has builds.
func (x *index) attach(reader *sql.DB) {
	x.refreshing.Lock()
	defer x.refreshing.Unlock()
	x.reader, x.seen, x.last, x.fresh = reader, 0, 0, true
}

// refresh reads what was written since the last time, by whichever process. It fails silently: what is in memory serves.
func (x *index) refresh(ctx context.Context) {
	if !x.refreshing.TryLock() {
		return // another goroutine is at it: what is in memory is a moment old
	}
	defer x.refreshing.Unlock()
	if x.reader == nil {
		return
	}
	var version int64
	if err := x.reader.QueryRowContext(ctx, "pragma data_version").Scan(&version); err != nil || version == x.seen {
		return
	}
	rows, last, err := readRows(ctx, x.reader, x.last)
	if err != nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case len(rows) == 0:
		x.seen = version
		return
	case x.fresh:
		x.reset(x.options)
	case x.rows+len(rows) > 2*x.options.Total: // the database has dropped half of it: read that again
		x.fresh, x.seen, x.last = true, 0, 0
		return
	}
	for _, r := range rows {
		x.insert(r)
	}
	x.fitSpeeds()
	x.seen, x.last, x.fresh = version, last, false
}

func readRows(ctx context.Context, db *sql.DB, after int64) (rows []*row, last int64, err error) {
	result, err := db.QueryContext(ctx, `select id, pname, stem, system, machine, label, cores, wall, cpu, peak_memory, output, result, at
		from builds where id > ? order by id`, after)
	if err != nil {
		return nil, 0, err
	}
	defer result.Close()
	words := make(map[string]string) // one copy of each
	for result.Next() {
		r := &row{}
		var outcome string
		err := result.Scan(&last, &r.pname, &r.stem, &r.system, &r.machine, &r.label, &r.cores, &r.wall, &r.cpu, &r.peak, &r.output, &outcome, &r.at)
		if err != nil {
			return nil, 0, err
		}
		for _, s := range []*string{&r.pname, &r.stem, &r.system, &r.machine, &r.label, &outcome} {
			word, ok := words[*s]
			if !ok {
				words[*s], word = *s, *s
			}
			*s = word
		}
		r.result = offload.Result(outcome)
		rows = append(rows, r)
	}
	return rows, last, result.Err()
}

// add puts a build into memory alone.
func (x *index) add(r *row) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.rows > 2*x.options.Total {
		x.reset(x.options)
	}
	x.insert(r)
	x.fitSpeeds()
}

func (x *index) insert(r *row) {
	x.rows++
	k := key{r.pname, r.system}
	if k.name == "" {
		k.name = r.stem
	}
	g := x.groups[k]
	if g == nil {
		g = &group{key: k}
		x.groups[k] = g
		x.order = append(x.order, g)
	}
	if !slices.Contains(x.stems[r.stem], g) {
		x.stems[r.stem] = append(x.stems[r.stem], g)
	}
	g.cell(r.machine).insert(r, x.options.PerKey)
	if r.result == offload.Built {
		x.labels[r.label] = keepLast(append(x.labels[r.label], r), recentLabels)
		x.all = keepLast(append(x.all, r), recentAll)
	}
}

// keepLast drops the first of a slice once there are twice as many as are wanted, so that dropping is rare.
func keepLast[T any](s []T, n int) []T {
	if len(s) < 2*n {
		return s
	}
	return slices.Clone(s[len(s)-n:])
}

func (g *group) cell(machine string) *cell {
	for _, c := range g.cells {
		if c.machine == machine {
			return c
		}
	}
	c := &cell{machine: machine}
	g.cells = append(g.cells, c)
	return c
}

// find returns the cell of a machine, or an empty one.
func (g *group) find(machine string) *cell {
	for _, c := range g.cells {
		if c.machine == machine {
			return c
		}
	}
	return &cell{}
}

func (c *cell) insert(r *row, most int) {
	at, _ := slices.BinarySearchFunc(c.rows, r, func(a, b *row) int { return cmp.Or(cmp.Compare(a.at, b.at), -1) }) // behind equals
	c.rows = slices.Insert(c.rows, at, r)
	if len(c.rows) > most {
		c.rows = slices.Delete(c.rows, 0, len(c.rows)-most)
	}
	var walls []float64
	c.built, c.log = 0, 0
	for _, r := range c.rows {
		if r.result == offload.Built {
			c.built++
			if r.label != "fixed-output" {
				walls = append(walls, r.wall)
			}
		}
	}
	if len(walls) == 0 {
		return
	}
	slices.Sort(walls)
	if m := median(walls); m >= 2 {
		c.log = math.Log(m)
	}
}

// fitSpeeds takes each package's log duration on each machine for a[package] - s[machine], and finds s by turns.
// Each machine's s is pulled towards 0 as by a few builds of average speed.
func (x *index) fitSpeeds() {
	const rounds, pull = 25, 2.0
	type sample struct {
		machine int
		log     float64
		weight  float64
	}
	numbers := make(map[string]int)
	var names []string
	var packages [][]sample
	for _, g := range x.order {
		var samples []sample
		for _, c := range g.cells {
			if c.log == 0 {
				continue
			}
			n, ok := numbers[c.machine]
			if !ok {
				n = len(names)
				numbers[c.machine], names = n, append(names, c.machine)
			}
			samples = append(samples, sample{n, c.log, float64(min(c.built, 5))})
		}
		if len(samples) > 1 {
			packages = append(packages, samples)
		}
	}
	s, sums, weights := make([]float64, len(names)), make([]float64, len(names)), make([]float64, len(names))
	for range rounds {
		clear(sums)
		clear(weights)
		for _, samples := range packages {
			a, w := 0.0, 0.0
			for _, v := range samples {
				a += v.weight * (v.log + s[v.machine])
				w += v.weight
			}
			for _, v := range samples {
				sums[v.machine] += v.weight * (a/w - v.log)
				weights[v.machine] += v.weight
			}
		}
		for i := range s {
			s[i] = sums[i] / (weights[i] + pull)
		}
	}
	x.speeds = make(map[string]float64)
	for i, name := range names {
		if weights[i] > 0 {
			x.speeds[name] = math.Exp(s[i])
		}
	}
}

// Speeds returns how many times faster than the average machine each builds, for those that have built something that
// others have, too. The map is the caller's.
func (d *DB) Speeds(ctx context.Context) map[string]float64 {
	d.index.refresh(ctx)
	d.index.mu.RLock()
	defer d.index.mu.RUnlock()
	speeds := make(map[string]float64, len(d.index.speeds))
	for name, s := range d.index.speeds {
		speeds[name] = s
	}
	return speeds
}
