package offload

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Ask is one question of Nix's.
type Ask struct {
	// Request is what is to be built.
	Request *Request
	// Willing says that Nix has a slot free for it on this machine right now.
	Willing bool
	// Waited is how long ago the question was first put.
	Waited time.Duration
	// Now is the time against which readings and leases are held.
	Now time.Time
}

// Candidate is a machine with what is known of it at the moment. Names of machines must be unique.
type Candidate struct {
	// Machine is never nil, and is not changed.
	Machine *Machine
	// Readings are its own.
	Readings Readings
	// Leases are the builds that were given to it by us and have not ended.
	Leases []Lease
	// Breaker is whether it failed of late.
	Breaker Breaker
	// MissingBytes is the size of the inputs that are not there yet; nil is unknown.
	MissingBytes *int64
	// UnknownBytes is the size of those beside them of which it is not known whether they are there. No more of it counts
	// than Policy.MissingBytes.
	UnknownBytes int64
	// Bandwidth was measured, in bytes a second; 0 is unknown.
	Bandwidth float64
	// Speed was learned: how many times faster than the average machine it builds; 0 is unknown.
	Speed float64
	// Estimate is of this build on this machine; without a Source it is [Request.Prior].
	Estimate Estimate
}

// Lease is a build that runs on a machine.
type Lease struct {
	// Started is when it was given to the machine.
	Started time.Time
	// Ends is when it is expected to end; the zero time is unknown.
	Ends time.Time
	// Memory is the peak that is expected, in bytes; 0 is unknown.
	Memory int64
	// Used is the memory that it has at the time of the readings; nil is unknown.
	Used *int64
	// Cores is how many it keeps busy; 0 is 1.
	Cores int
}

// Breaker is a circuit breaker's state. The zero value is closed.
type Breaker string

// The states of a breaker.
const (
	// BreakerClosed: it works, as far as is known.
	BreakerClosed Breaker = ""
	// BreakerHalfOpen: it failed, and may be tried with one build.
	BreakerHalfOpen Breaker = "half-open"
	// BreakerOpen: it failed, and is to be left alone.
	BreakerOpen Breaker = "open"
	// BreakerBarred: a key is wrong, the machine's or ours, which a person has to mend.
	BreakerBarred Breaker = "barred"
)

// Verdict is the hook's answer.
type Verdict string

// The verdicts.
const (
	// Accept: the hook builds it, on the machine that was chosen.
	Accept Verdict = "accept"
	// Decline: Nix builds it on this machine, if it is able to.
	Decline Verdict = "decline"
	// Postpone: Nix asks again.
	Postpone Verdict = "postpone"
)

// Why says what led to a verdict.
type Why string

// The reasons for verdicts.
const (
	// WhyCheapest: the machine has the least cost.
	WhyCheapest Why = "cheapest"
	// WhyWait: the machine with the least cost has a slot soon.
	WhyWait Why = "slot-soon"
	// WhyPassing: every machine that builds it refuses for something that passes.
	WhyPassing Why = "all-refuse-for-now"
	// WhyPatience: waiting took too long; Nix's own formula chose.
	WhyPatience Why = "patience-ended"
	// WhyNobody: every machine refuses for something that stays; Nix's own formula chose.
	WhyNobody Why = "all-refuse"
)

// Choice is a decision, with all that led to it.
type Choice struct {
	// Verdict is the answer.
	Verdict Verdict `json:"verdict"`
	// Machine is the name of the one that was chosen; with Postpone the one that is waited for, or "" if that is any.
	// With Decline it is this machine's name, or "" if it is no candidate.
	Machine string `json:"machine,omitempty"`
	// Why says which rule led there.
	Why Why `json:"why"`
	// Mode is the one that it was decided in.
	Mode Mode `json:"mode"`
	// Class is how much effort the build is, Signs the reasons for that.
	Class Class  `json:"class"`
	Signs []Sign `json:"signs,omitempty"`
	// Ranking has every candidate once: those without a refusal by cost, then the others by name.
	Ranking []Ranked `json:"ranking"`
}

// Ranked is one candidate's place.
type Ranked struct {
	// Machine is its name.
	Machine string `json:"machine"`
	// Local is set for this machine.
	Local bool `json:"local,omitempty"`
	// Refusal is why it may not take the build; empty if it may.
	Refusal Refusal `json:"refusal,omitempty"`
	// Detail are the figures behind the refusal; may be empty.
	Detail string `json:"detail,omitempty"`
	// Cost is the sum of the terms, in seconds; 0 if it refuses.
	Cost float64 `json:"cost,omitempty"`
	// Terms are what the cost is made of; those of 0 are left out.
	Terms []Term `json:"terms,omitempty"`
	// Estimate is what the cost rests on.
	Estimate Estimate `json:"estimate,omitzero"`
	// Unknown names the readings that are not known.
	Unknown []string `json:"unknown,omitempty"`

	speed  float64 // for ties
	leases int
}

// Pick decides where a build goes. A nil Policy has all defaults. It may be called from several goroutines at once,
// changes nothing, and the order of the candidates doesn't matter. The candidates should have this machine among them
// if Nix may build on it: without, Pick doesn't know whether declining leads anywhere.
func Pick(ask *Ask, candidates []Candidate, policy *Policy) Choice {
	p := picker{ask: ask, candidates: candidates, policy: policy.withDefaults()}
	p.look()
	choice := Choice{Mode: p.policy.Mode, Class: p.class, Signs: p.signs, Ranking: make([]Ranked, len(candidates))}
	for i := range candidates {
		choice.Ranking[i] = p.rank(&candidates[i])
	}
	slices.SortFunc(choice.Ranking, compareRanked)
	p.decide(&choice)
	return choice
}

// picker is one decision on its way.
type picker struct {
	ask        *Ask
	candidates []Candidate
	policy     Policy

	prior      Estimate
	class      Class
	signs      []Sign
	localAble  *Candidate // this machine, if it builds such derivations at all
	localFits  bool       // it does, and has the memory
	remoteFits bool       // a builder does, has the memory, and is not drained
	stays      bool       // it is to be built here, now
}

// look finds out what holds for all candidates.
func (p *picker) look() {
	r := p.ask.Request
	p.prior = r.Prior()
	estimate, memory := p.prior, int64(0)
	for i := range p.candidates {
		c := &p.candidates[i]
		able := c.Machine.Builds(r.System, r.Features) == "" && c.Machine.MaxJobs > 0
		fits := able && p.fits(c)
		if !c.Machine.Local {
			p.remoteFits = p.remoteFits || fits && !c.Machine.Drained
			continue
		}
		estimate = p.estimate(c)
		if c.Readings.MemoryTotal != nil {
			memory = *c.Readings.MemoryTotal
		}
		if able {
			p.localAble, p.localFits = c, fits
		}
	}
	p.class, p.signs = r.Classify(estimate, memory)
	p.stays = p.small() && p.localFits && p.ask.Willing
}

// small says that the build is one to keep here.
func (p *picker) small() bool {
	send := p.policy.SendTrivial
	if p.ask.Request.Fixed != nil {
		send = p.policy.SendFixed
	}
	return p.class == Trivial && !send && p.policy.Mode != ModeRemoteFirst
}

func (p *picker) fits(c *Candidate) bool {
	estimate := p.estimate(c)
	e := evaluation{picker: p, c: c, readings: &c.Readings, estimate: &estimate}
	refusal, _ := e.refusesMemoryEver()
	return refusal == ""
}

func (p *picker) estimate(c *Candidate) Estimate {
	if c.Estimate.Source == "" {
		return p.prior
	}
	return c.Estimate
}

func (p *picker) rank(c *Candidate) Ranked {
	r := Ranked{
		Machine: c.Machine.Name, Local: c.Machine.Local, Estimate: p.estimate(c),
		speed: c.speed(), leases: len(c.Leases),
	}
	readings := c.Readings.fresh(p.ask.Now, p.policy.StaleAfter)
	e := evaluation{picker: p, c: c, readings: &readings, estimate: &r.Estimate}
	if r.Refusal, r.Detail = e.refusal(); r.Refusal != "" {
		return r
	}
	r.Unknown = e.unknown()
	r.Terms = e.terms(len(r.Unknown))
	for _, t := range r.Terms {
		r.Cost += t.Seconds
	}
	return r
}

// compareRanked orders those that take the build by cost; of equal cost this machine, the faster, the emptier comes first.
func compareRanked(a, b Ranked) int {
	if byRefusal := cmp.Compare(boolInt(a.Refusal != ""), boolInt(b.Refusal != "")); byRefusal != 0 {
		return byRefusal
	}
	if a.Refusal != "" {
		return cmp.Compare(a.Machine, b.Machine)
	}
	return cmp.Or(
		cmp.Compare(a.Cost, b.Cost),
		cmp.Compare(boolInt(b.Local), boolInt(a.Local)),
		cmp.Compare(b.speed, a.speed),
		cmp.Compare(a.leases, b.leases),
		cmp.Compare(a.Machine, b.Machine),
	)
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (p *picker) decide(c *Choice) {
	if len(c.Ranking) > 0 && c.Ranking[0].Refusal == "" {
		best := c.Ranking[0]
		c.Machine, c.Verdict, c.Why = best.Machine, Accept, WhyCheapest
		switch {
		case best.waits():
			c.Verdict, c.Why = Postpone, WhyWait
		case best.Local:
			c.Verdict = Decline
		}
		return
	}
	passing := slices.ContainsFunc(c.Ranking, func(r Ranked) bool { return r.Refusal.Passing() })
	if passing && (p.ask.Waited < p.policy.Patience || p.queues(c)) {
		c.Verdict, c.Why = Postpone, WhyPassing
		return
	}
	c.Why = WhyNobody
	if passing {
		c.Why = WhyPatience
	}
	p.plain(c)
}

// queues says whether the mode has the build wait for a slot, which comes as other builds end.
func (p *picker) queues(c *Choice) bool {
	return slices.ContainsFunc(c.Ranking, func(r Ranked) bool {
		wanted := r.Local && p.policy.Mode == ModeLocalFirst || !r.Local && p.policy.Mode == ModeRemoteFirst
		return wanted && r.Refusal == SlotsFull
	})
}

// plain lets Nix's formula choose among the builders that are not known to be down,
// and among those with too little memory only if there are no others.
func (p *picker) plain(c *Choice) {
	var fitting, all []Loaded
	for _, r := range c.Ranking {
		i := slices.IndexFunc(p.candidates, func(c Candidate) bool { return c.Machine.Name == r.Machine })
		candidate := &p.candidates[i]
		if r.Local || candidate.down() != "" || r.Refusal.unfit() {
			continue
		}
		all = append(all, Loaded{candidate.Machine, len(candidate.Leases)})
		if r.Refusal != NeverFits {
			fitting = append(fitting, all[len(all)-1])
		}
	}
	if len(fitting) == 0 {
		fitting = all
	}
	r := p.ask.Request
	c.Verdict, c.Machine = PlainFormula(fitting, r.System, r.Features, p.ask.Willing && p.localAble != nil)
	if c.Verdict == Decline && p.localAble != nil {
		c.Machine = p.localAble.Machine.Name
		if !p.ask.Willing {
			c.Verdict = Postpone
		}
	}
}

// down returns why a machine can't or shall not be reached, which patience doesn't change; empty if it may be.
func (c *Candidate) down() Refusal {
	switch {
	case c.Machine.Drained:
		return Drained
	case c.Breaker == BreakerOpen:
		return CircuitOpen
	case c.Breaker == BreakerBarred:
		return Barred
	case c.Breaker == BreakerHalfOpen && len(c.Leases) > 0:
		return Probing
	}
	return ""
}

func (r *Ranked) waits() bool {
	return slices.ContainsFunc(r.Terms, func(t Term) bool { return t.Name == TermWait })
}

// sane returns a number that is finite and positive, or else the other.
func sane(v, otherwise float64) float64 {
	if v > 0 && !math.IsInf(v, 1) {
		return v
	}
	return otherwise
}
