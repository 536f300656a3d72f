package offload

// Refusal is why a machine may not take a build. It is a name that stays as it is; [Refusal.String] is a sentence.
type Refusal string

// The refusals. Those up to Barred stand whatever the machine is doing.
const (
	// WrongSystem: the derivation's system is none of the machine's.
	WrongSystem Refusal = "wrong-system"
	// LacksFeature: the machine has not each feature that the derivation requires.
	LacksFeature Refusal = "lacks-feature"
	// MandatoryFeature: the machine is kept for derivations with a feature that this one doesn't require.
	MandatoryFeature Refusal = "mandatory-feature"
	// NoJobs: the machine's number of jobs is 0.
	NoJobs Refusal = "no-jobs"
	// StaysLocal: the build is trivial or of fixed output, and this machine builds it.
	StaysLocal Refusal = "stays-local"
	// ModeLocal: the mode is local, and this machine is able to build it.
	ModeLocal Refusal = "mode-local"
	// ModeRemote: the mode is remote, and a builder is able to build it.
	ModeRemote Refusal = "mode-remote"
	// NeverFits: the build's memory is more than the machine has for builds.
	NeverFits Refusal = "never-fits"
	// Barred: its host key is not the one that is known, or it takes none of our keys.
	Barred Refusal = "barred"

	// Drained: the owner lets it run empty.
	Drained Refusal = "drained"
	// CircuitOpen: it failed of late and is not asked for a while.
	CircuitOpen Refusal = "breaker-open"
	// Probing: it failed of late, and one build is finding out whether it is back.
	Probing Refusal = "probing"
	// SlotsFull: it runs as many builds as it takes, and none ends soon enough.
	SlotsFull Refusal = "slots-full"
	// MemoryShort: the build's memory is not free at present.
	MemoryShort Refusal = "memory-short"
	// CPUPressure: its processes wait for processors too much.
	CPUPressure Refusal = "cpu-pressure"
	// MemoryPressure: its processes wait for memory too much.
	MemoryPressure Refusal = "memory-pressure"
	// IOPressure: its processes wait for disks too much.
	IOPressure Refusal = "io-pressure"
	// DiskShort: the store's or the build folder's file system is short of bytes.
	DiskShort Refusal = "disk-short"
	// InodesShort: the store's or the build folder's file system is short of inodes.
	InodesShort Refusal = "inodes-short"
	// BatteryLow: it runs on a battery that is low.
	BatteryLow Refusal = "battery-low"
)

// String returns what is to be read after the machine's name.
func (r Refusal) String() string {
	switch r {
	case WrongSystem:
		return "does not build for this system"
	case LacksFeature:
		return "lacks a feature that the derivation requires"
	case MandatoryFeature:
		return "takes only derivations that require its mandatory features"
	case NoJobs:
		return "has a number of jobs of 0"
	case StaysLocal:
		return "the build is small or of fixed output, and this machine builds it"
	case ModeLocal:
		return "the mode is local, and this machine builds it"
	case ModeRemote:
		return "the mode is remote, and a builder builds it"
	case NeverFits:
		return "has not as much memory as the build is expected to take"
	case Barred:
		return "has a host key that is not known, or takes none of our keys"
	case Drained:
		return "is drained"
	case CircuitOpen:
		return "failed of late, and is left alone for a while"
	case Probing:
		return "failed of late, and one build is finding out whether it is back"
	case SlotsFull:
		return "all of its slots are taken"
	case MemoryShort:
		return "has not as much memory free as the build is expected to take"
	case CPUPressure:
		return "is short of processor time"
	case MemoryPressure:
		return "is short of memory"
	case IOPressure:
		return "is short of disk bandwidth"
	case DiskShort:
		return "is short of disk space"
	case InodesShort:
		return "is short of inodes"
	case BatteryLow:
		return "runs on a low battery"
	}
	return string(r)
}

// Passing says whether the refusal may be gone when Nix asks again.
func (r Refusal) Passing() bool {
	switch r {
	case Drained, CircuitOpen, Probing, SlotsFull, MemoryShort, CPUPressure, MemoryPressure, IOPressure, DiskShort,
		InodesShort, BatteryLow:
		return true
	}
	return false
}

// unfit says that a machine doesn't build such derivations.
func (r Refusal) unfit() bool {
	return r == WrongSystem || r == LacksFeature || r == MandatoryFeature || r == NoJobs
}
