package offload

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Decision is the record of one answer: what was asked, what was known, what came of it. It marshals to JSON.
type Decision struct {
	// ID is the record's number where it is kept; 0 for one that is not.
	ID int64 `json:"id,omitempty"`
	// When is the time of the decision.
	When time.Time `json:"when"`
	// Request is what was to be built.
	Request Request `json:"request"`
	// Willing and Waited are the question's: see [Ask]. Waited is in seconds.
	Willing bool    `json:"willing"`
	Waited  float64 `json:"waited,omitempty"`
	// Choice is the answer, with every candidate.
	Choice Choice `json:"choice"`
	// Outcome is how the build ended; nil as long as that is not known.
	Outcome *Outcome `json:"outcome,omitempty"`
}

// Outcome is how a build ended.
type Outcome struct {
	// When it ended.
	When time.Time `json:"when"`
	// Result is one of the constants.
	Result Result `json:"result"`
	// Machine is where it ended; not the one that was chosen if that was given up.
	Machine string `json:"machine,omitempty"`
	// Seconds is how long it took, transfers included.
	Seconds float64 `json:"seconds,omitempty"`
	// Detail is a line for people; may be empty.
	Detail string `json:"detail,omitempty"`
}

// Result is how a build ended, in a word.
type Result string

// The results.
const (
	// Built: its outputs are there.
	Built Result = "built"
	// Failed: the builder said so.
	Failed Result = "failed"
	// TimedOut: it was silent, or took, too long.
	TimedOut Result = "timed-out"
	// OutOfMemory: the machine's memory did not suffice.
	OutOfMemory Result = "out-of-memory"
	// Lost: the machine, or the way to it, failed.
	Lost Result = "lost"
	// Cancelled: nobody wanted it any more.
	Cancelled Result = "cancelled"
)

// NewDecision makes the record of a choice.
func NewDecision(ask *Ask, choice *Choice) *Decision {
	return &Decision{When: ask.Now, Request: *ask.Request, Willing: ask.Willing, Waited: ask.Waited.Seconds(), Choice: *choice}
}

const maxLine = 400 // bytes of a line for a log

// Line says it in one line for a log, of 400 bytes at most, without control characters.
func (d *Decision) Line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", d.Request.Name, d.Choice.verdict())
	for _, r := range d.Choice.Ranking {
		if r.Refusal == "" {
			fmt.Fprintf(&b, "; %s %.0f s (%s)", r.Machine, r.Cost, r.terms(", "))
		} else {
			fmt.Fprintf(&b, "; %s %s", r.Machine, string(r.Refusal))
		}
	}
	return clean(b.String(), maxLine)
}

func (c *Choice) verdict() string {
	switch {
	case c.Verdict == Postpone && c.Machine != "":
		return fmt.Sprintf("waits for %s (%s)", c.Machine, c.Why)
	case c.Verdict == Postpone:
		return fmt.Sprintf("waits (%s)", c.Why)
	case c.Verdict == Decline && c.Machine == "":
		return fmt.Sprintf("left to Nix (%s)", c.Why)
	case c.Verdict == Decline:
		return fmt.Sprintf("stays here (%s)", c.Why)
	}
	return fmt.Sprintf("goes to %s (%s)", c.Machine, c.Why)
}

func (r *Ranked) terms(separator string) string {
	words := make([]string, 0, len(r.Terms))
	for _, t := range r.Terms {
		words = append(words, fmt.Sprintf("%s %.1f", t.Name, t.Seconds))
	}
	return strings.Join(words, separator)
}

// WriteTable writes it for people, as a head and a table with a line for each candidate.
func (d *Decision) WriteTable(w io.Writer) error {
	out := bufio.NewWriter(w)
	say := func(name, format string, values ...any) {
		fmt.Fprintf(out, "%-12s%s\n", name, clean(strings.TrimSpace(fmt.Sprintf(format, values...)), maxLine))
	}
	r := &d.Request
	say("derivation", "%s", r.DrvPath)
	say("asked", "%s, system %s, features %s", d.When.UTC().Format(time.DateTime+" MST"), r.System, orDash(strings.Join(r.Features, ",")))
	say("nix", "%s to build here, asked since %.0f s", map[bool]string{true: "willing", false: "not willing"}[d.Willing], d.Waited)
	say("kind", "%s %s", d.Choice.Class, joinSigns(d.Choice.Signs))
	say("mode", "%s", d.Choice.Mode)
	say("answer", "%s", d.Choice.verdict())
	if o := d.Outcome; o != nil {
		say("outcome", "%s on %s after %.0f s %s", o.Result, orDash(o.Machine), o.Seconds, o.Detail)
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MACHINE\tCOST\tEXPECTED BUILD\tWHY")
	for i := range d.Choice.Ranking {
		c := &d.Choice.Ranking[i]
		cost, why := fmt.Sprintf("%.0f s", c.Cost), c.terms(" + ")
		if c.Refusal != "" {
			cost, why = "-", c.Refusal.String()
			if c.Detail != "" {
				why += ": " + c.Detail
			}
		}
		if len(c.Unknown) > 0 {
			why += " (unknown: " + strings.Join(c.Unknown, ", ") + ")"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", clean(c.Machine, maxLine), cost, c.Estimate.text(), clean(why, maxLine))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return out.Flush()
}

// text says an estimate: "240 s, 9 in 10 below 400 s (12 builds, other-machines)".
func (e *Estimate) text() string {
	if e.Source == "" {
		return "-"
	}
	relative := ""
	if e.Relative {
		relative = " at speed 1"
	}
	return fmt.Sprintf("%.0f s%s, 9 in 10 below %.0f s (%d builds, %s)", e.P50, relative, e.P90, e.Samples, e.Source)
}

func joinSigns(signs []Sign) string {
	words := make([]string, len(signs))
	for i, s := range signs {
		words[i] = string(s)
	}
	if len(words) == 0 {
		return ""
	}
	return "(" + strings.Join(words, ", ") + ")"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// clean makes text from outside fit for a terminal: one line, no control characters, no more than so many bytes.
func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return '?'
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most-3], "") + "…"
	}
	return s
}
