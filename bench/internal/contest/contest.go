// Package contest measures servers side by side.
//
// [Run] goes through a number of rounds. In each round every pass, say all NARs with 4 connections, is run by every
// contender, one after another in an order drawn anew, so that what changes on the machine meanwhile falls on all alike
// and samples of one round can be compared. Contenders prepare themselves before the first round; a [Client]
// then fetches everything once and checks it, so that a server which is fast and wrong doesn't take part.
package contest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Kind is what a pass asks for.
type Kind uint8

// The kinds of passes.
const (
	Narinfo Kind = iota // the narinfo of each path
	Absent              // narinfos that are not there
	NAR                 // the NAR of each path
	First               // the first request of a path's NAR, to a server that was just started
	Push                // a closure copied to a cache, by Nix
	Pull                // a closure copied from a cache, by Nix
)

// Pass is one thing that is measured.
type Pass struct {
	Kind        Kind
	Connections int
	// Repeat is how often the pass goes through the paths.
	Repeat int
}

// String returns "narinfo", "absent narinfo", "NAR c4", "first request", "push", "pull".
func (p Pass) String() string {
	switch p.Kind {
	case Narinfo:
		return "narinfo"
	case Absent:
		return "absent narinfo"
	case First:
		return "first request"
	case Push:
		return "push"
	case Pull:
		return "pull"
	}
	return fmt.Sprintf("NAR c%d", p.Connections)
}

// Sample is one contender's run of one pass.
type Sample struct {
	Time     time.Duration
	Requests int
	Logical  int64         // bytes of NARs, decoded
	Wire     int64         // bytes of bodies
	CPU      time.Duration // of the server and its children; 0: not known
	// FirstByte is how long the first byte of the body took, in passes of First by servers.
	FirstByte time.Duration
}

// Contender takes part in passes. It is used by one goroutine at a time.
type Contender interface {
	Name() string
	// Prepare comes before the first pass.
	Prepare(ctx context.Context) error
	// Runs reports whether it takes part in a pass.
	Runs(p Pass) bool
	// Measure runs a pass once.
	Measure(ctx context.Context, p Pass) (Sample, error)
}

// Series is what a contender did in a pass, round by round.
type Series struct {
	Pass      Pass
	Contender string
	Samples   []Sample
}

// Seconds returns the samples' times.
func (s *Series) Seconds() []float64 {
	times := make([]float64, len(s.Samples))
	for i, sample := range s.Samples {
		times[i] = sample.Time.Seconds()
	}
	return times
}

// Board is what a contest has measured: a series for each pass and contender that takes part in it.
type Board []*Series

// Find returns a contender's series, nil if there is none.
func (b Board) Find(p Pass, contender string) *Series {
	for _, s := range b {
		if s.Pass == p && s.Contender == contender {
			return s
		}
	}
	return nil
}

// Run prepares the contenders and runs the rounds. progress is told what is under way; it may be nil.
func Run(ctx context.Context, rounds int, passes []Pass, all []Contender, progress func(string)) (Board, error) {
	if progress == nil {
		progress = func(string) {}
	}
	for _, c := range all {
		progress("warming up " + c.Name())
		if err := c.Prepare(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name(), err)
		}
	}
	var board Board
	for _, p := range passes {
		for _, c := range all {
			if c.Runs(p) {
				board = append(board, &Series{Pass: p, Contender: c.Name()})
			}
		}
	}
	for round := range rounds {
		progress(fmt.Sprintf("round %d of %d", round+1, rounds))
		for _, p := range passes {
			if err := board.round(ctx, p, all); err != nil {
				return nil, err
			}
		}
	}
	return board, nil
}

// round lets each contender run a pass.
func (b Board) round(ctx context.Context, p Pass, all []Contender) error {
	order := slices.Clone(all)
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for _, c := range order {
		if !c.Runs(p) {
			continue
		}
		sample, err := c.Measure(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %s: %w", c.Name(), p, err)
		}
		series := b.Find(p, c.Name())
		series.Samples = append(series.Samples, sample)
	}
	return nil
}
