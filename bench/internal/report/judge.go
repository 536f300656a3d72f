// Package report writes what a contest has measured: tables for people, CSV for programs, a chart for pages, and
// verdicts on what was to be reached.
package report

import (
	"fmt"

	"github.com/voidnxlab/nixtrap/bench/internal/contest"
	"github.com/voidnxlab/nixtrap/bench/internal/stats"
)

// Goal is a ratio to reach in a pass.
type Goal struct {
	Contender string
	Baseline  string
	Pass      contest.Pass
	// Quantity is what the ratio is of.
	Quantity Quantity
	// Limit is the least ratio, or, of times and wire bytes, the greatest.
	Limit float64
}

// Quantity is what a goal's ratio is of.
type Quantity uint8

// The quantities. Of Speed more is better, of the others less.
const (
	Speed Quantity = iota
	Time
	Wire // bytes on the wire; strictly fewer than the limit says
)

// Verdict says whether something that was to be reached was.
type Verdict struct {
	What    string // what was measured, against what
	Want    string
	Got     string
	Reached bool
}

// Line returns the verdict as a line of text.
func (v Verdict) Line() string {
	word := "MISSED "
	if v.Reached {
		word = "reached"
	}
	return fmt.Sprintf("%s  %-72s %-12s %s", word, v.What, v.Want, v.Got)
}

// Judge compares a board with goals. Goals whose contender or baseline didn't take part are left out.
func Judge(workload string, board contest.Board, goals []Goal) []Verdict {
	var verdicts []Verdict
	for _, g := range goals {
		ours, base := board.Find(g.Pass, g.Contender), board.Find(g.Pass, g.Baseline)
		if ours == nil || base == nil {
			continue
		}
		verdicts = append(verdicts, g.judge(workload, ours, base))
	}
	return verdicts
}

func (g Goal) judge(workload string, ours, base *contest.Series) Verdict {
	v := Verdict{What: fmt.Sprintf("%s, %s: %s against %s", workload, g.Pass, g.Contender, g.Baseline)}
	ratio := stats.Summarize(ratios(g.Quantity, ours, base))
	v.Got = fmt.Sprintf("%.3f (%.3f to %.3f)", ratio.Median, ratio.Low, ratio.High)
	switch g.Quantity {
	case Speed:
		v.Want, v.Reached = fmt.Sprintf("speed ≥ %.2f", g.Limit), ratio.Median >= g.Limit
	case Time:
		v.Want, v.Reached = fmt.Sprintf("time ≤ %.2f", g.Limit), ratio.Median <= g.Limit
	case Wire:
		v.Want, v.Reached = fmt.Sprintf("wire < %.2f", g.Limit), ratio.Median < g.Limit
	}
	return v
}

// ratios divides the quantity's samples of the same rounds.
func ratios(q Quantity, ours, base *contest.Series) []float64 {
	switch q {
	case Speed:
		return stats.Ratios(base.Seconds(), ours.Seconds())
	case Time:
		return stats.Ratios(ours.Seconds(), base.Seconds())
	}
	return stats.Ratios(wire(ours), wire(base))
}

func wire(s *contest.Series) []float64 {
	var bytes []float64
	for _, sample := range s.Samples {
		bytes = append(bytes, float64(sample.Wire))
	}
	return bytes
}
