package offload

// Loaded is a machine with the number of its slots that are taken.
type Loaded struct {
	Machine *Machine
	Load    int
}

// PlainFormula chooses as Nix's own build-remote does among the machines of its list, in the list's order: of those that
// build for the system and have a slot free, the one with the least load by speed factor; of equals the faster, then the
// emptier, then the first. Drained machines are left out. Local says that Nix is willing and able to build it itself.
//
// It answers Accept with the machine's name; Postpone if all slots are taken and Nix can't build it itself;
// Decline if that is so and it can, or if no machine builds such a thing at all.
func PlainFormula(machines []Loaded, system string, features []string, local bool) (Verdict, string) {
	var best *Loaded
	rightType := false
	for i := range machines {
		m := &machines[i]
		if m.Machine.Local || m.Machine.Drained || m.Machine.Builds(system, features) != "" {
			continue
		}
		rightType = true
		if m.Load < m.Machine.MaxJobs && (best == nil || m.before(best)) {
			best = m
		}
	}
	switch {
	case best != nil:
		return Accept, best.Machine.Name
	case rightType && !local:
		return Postpone, ""
	}
	return Decline, ""
}

// before says whether the formula prefers m to a machine that came earlier.
func (m *Loaded) before(other *Loaded) bool {
	speed, otherSpeed := sane(m.Machine.SpeedFactor, 1), sane(other.Machine.SpeedFactor, 1)
	mine, theirs := float64(m.Load)/speed, float64(other.Load)/otherSpeed
	if mine != theirs {
		return mine < theirs
	}
	if speed != otherSpeed {
		return speed > otherSpeed
	}
	return m.Load < other.Load
}
