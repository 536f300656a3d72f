package offload

// Term is a part of a machine's cost.
type Term struct {
	// Name is one of the constants.
	Name TermName `json:"name"`
	// Seconds may be negative for TermWeight alone.
	Seconds float64 `json:"seconds"`
}

// TermName is what a part of the cost is for. It is a name that stays as it is.
type TermName string

// The terms.
const (
	// TermWait: until the machine has a slot.
	TermWait TermName = "wait"
	// TermSend: giving the build to a builder, however small it is.
	TermSend TermName = "send"
	// TermUpload: the inputs that are missing there, by the bandwidth.
	TermUpload TermName = "upload"
	// TermBuild: the median of the build's duration, by the machine's speed.
	TermBuild TermName = "build"
	// TermLoad: how much longer the build takes under the machine's present load.
	TermLoad TermName = "load"
	// TermDownload: the outputs' way back, by the bandwidth.
	TermDownload TermName = "download"
	// TermHeavyHere: a heavy build on this machine is felt by its user.
	TermHeavyHere TermName = "heavy-here"
	// TermBattery: the machine runs on battery.
	TermBattery TermName = "battery"
	// TermUnknown: not all is known that a better judgement needs.
	TermUnknown TermName = "unknown"
	// TermProbe: the machine failed of late.
	TermProbe TermName = "probe"
	// TermWeight: the owner's weight.
	TermWeight TermName = "weight"
)

// stall is how much of a pressure is believed: at 100 % a build takes five times as long, not for ever.
const stall = 0.8

// maxSeconds bounds what an estimate may say, so that sums stay numbers.
const maxSeconds = 30 * 24 * 3600.0

func (e *evaluation) terms(unknown int) []Term {
	terms := make([]Term, 0, 8)
	sum := 0.0
	add := func(name TermName, seconds float64) {
		if seconds != 0 {
			terms = append(terms, Term{name, seconds})
			sum += seconds
		}
	}
	build := e.buildSeconds()
	wait, _ := e.wait()
	add(TermWait, wait)
	if !e.c.Machine.Local {
		bandwidth := sane(e.c.Bandwidth, e.policy.Bandwidth)
		add(TermSend, e.policy.SendSeconds)
		add(TermUpload, float64(e.missing())/bandwidth)
		add(TermDownload, float64(max(e.estimate.OutputBytes, 0))/bandwidth)
	}
	add(TermBuild, build)
	add(TermLoad, build*(e.stretch()-1))
	if e.c.Machine.Local && e.class == Heavy {
		add(TermHeavyHere, build*e.policy.HeavyHere)
	}
	if onBattery(e.readings) {
		add(TermBattery, build*e.policy.OnBattery)
	}
	add(TermUnknown, build*e.policy.Unknown*float64(unknown)/float64(kindsOfReadings))
	if e.c.Breaker == BreakerHalfOpen {
		add(TermProbe, e.policy.ProbeSeconds)
	}
	add(TermWeight, sum*(1/sane(e.c.Machine.Weight, 1)-1))
	return terms
}

func (e *evaluation) buildSeconds() float64 {
	seconds := min(sane(e.estimate.P50, 1), maxSeconds)
	if e.estimate.Relative {
		seconds /= e.c.speed()
	}
	return min(seconds, maxSeconds)
}

// missing is what must be sent there.
func (e *evaluation) missing() int64 {
	switch {
	case e.c.Machine.Local:
		return 0
	case e.c.MissingBytes == nil:
		return e.policy.MissingBytes
	}
	return min(max(*e.c.MissingBytes, 0), 1<<50) + min(max(e.c.UnknownBytes, 0), e.policy.MissingBytes)
}

// stretch is how many times longer a build takes than on the idle machine: as the cores are shared, or as pressure says,
// whichever is more, and as tasks stall for disks and memory. It never shrinks as any of them grows.
func (e *evaluation) stretch() float64 {
	r := e.readings
	stretch := stalled(r.CPU.Some)
	cores := max(e.c.Machine.MaxJobs, 1) // a machine of unknown size is taken for one that its jobs fill
	if r.Cores != nil {
		cores = max(*r.Cores, 1)
	}
	busy := float64(e.ask.Request.Cores(cores))
	if r.Load1 != nil {
		busy += min(max(*r.Load1, 0), 1e6)
	}
	for i := range e.c.Leases {
		if l := &e.c.Leases[i]; r.Load1 == nil || !e.settled(l) {
			busy += float64(max(l.Cores, 1))
		}
	}
	stretch = max(stretch, busy/float64(cores), 1)
	return stretch * stalled(r.IO.Full) * stalled(r.Memory.Full)
}

func stalled(percent *float64) float64 {
	if percent == nil {
		return 1
	}
	return 1 / (1 - stall*min(max(*percent, 0), 100)/100)
}

// kindsOfReadings is how many kinds unknown tells apart.
const kindsOfReadings = 3

// unknown names the kinds of readings that are not there.
func (e *evaluation) unknown() (kinds []string) {
	r := e.readings
	if r.CPU.Some == nil && r.Load1 == nil {
		kinds = append(kinds, "load")
	}
	if r.MemoryAvailable == nil {
		kinds = append(kinds, "memory")
	}
	if r.Store.Bytes == nil {
		kinds = append(kinds, "disk")
	}
	return kinds
}
