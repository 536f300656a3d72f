package offload

import (
	"slices"
)

// Request is a derivation that is to be built, as far as placing it depends on what it is.
type Request struct {
	// DrvPath is the derivation's store path.
	DrvPath string `json:"drv_path"`
	// Name is the derivation's, such as "hello-2.12.1".
	Name string `json:"name"`
	// PName and Version are the package's, empty where the derivation doesn't say.
	PName   string `json:"pname,omitempty"`
	Version string `json:"version,omitempty"`
	// Stem is the name without its trailing digits, dots and dashes: what stays the same from version to version.
	Stem string `json:"stem"`
	// System is the platform that it is to be built on, such as "x86_64-linux", or "builtin".
	System string `json:"system"`
	// Features are required of the machine, sorted.
	Features []string `json:"features,omitempty"`

	// Builder is the program that is run, or "builtin:" and a name for what Nix does itself.
	Builder string `json:"builder"`
	// PreferLocal is preferLocalBuild: building takes less than a transfer, says who wrote it.
	PreferLocal bool `json:"prefer_local,omitempty"`
	// NoSubstitutes is the opposite of allowSubstitutes: building takes less than asking a cache, says who wrote it.
	NoSubstitutes bool `json:"no_substitutes,omitempty"`
	// Fixed is set if the output's hash is known beforehand: a download, mostly.
	Fixed *FixedOutput `json:"fixed,omitempty"`
	// ContentAddressed derivations get their outputs' paths from what is built.
	ContentAddressed bool `json:"content_addressed,omitempty"`
	// Parallel is enableParallelBuilding: more cores help, unless DontBuild.
	Parallel bool `json:"parallel,omitempty"`
	// DontBuild is dontBuild: there is no build phase.
	DontBuild bool `json:"dont_build,omitempty"`
	// Checks is doCheck or doInstallCheck: tests are run.
	Checks bool `json:"checks,omitempty"`
	// StructuredAttrs says that the derivation's attributes are JSON.
	StructuredAttrs bool `json:"structured_attrs,omitempty"`

	// Outputs are the outputs' names, sorted.
	Outputs []string `json:"outputs,omitempty"`
	// InputDrvs and InputSources count what is needed directly.
	InputDrvs    int `json:"input_drvs"`
	InputSources int `json:"input_sources"`
	// Toolchains are the kinds of compilers among the direct inputs, sorted: see package drv.
	Toolchains []string `json:"toolchains,omitempty"`
}

// FixedOutput is what a derivation's only output is known to be.
type FixedOutput struct {
	// Algorithm is the hash's, such as "sha256".
	Algorithm string `json:"algorithm"`
	// Hash is in base 16.
	Hash string `json:"hash"`
	// Recursive says that the hash is of the archive, not of a file's content.
	Recursive bool `json:"recursive,omitempty"`
}

// Key is what past builds are compared by: the package's name, or the stem where there is none.
func (r *Request) Key() string {
	if r.PName != "" {
		return r.PName
	}
	return r.Stem
}

// Label is the one word that says most about the effort of a build that has no history:
// "big-parallel" if that is required, "fixed-output", "trivial" for what Nix's authors mark so, the heaviest toolchain,
// or "".
func (r *Request) Label() string {
	switch {
	case r.Fixed != nil:
		return "fixed-output"
	case r.PreferLocal || r.builtin():
		return "trivial"
	case slices.Contains(r.Features, "big-parallel"):
		return "big-parallel"
	}
	label, most := "", 0.0
	for _, t := range r.Toolchains {
		if p := toolchainSeconds(t); p > most {
			label, most = t, p
		}
	}
	return label
}

func (r *Request) builtin() bool { return len(r.Builder) > 8 && r.Builder[:8] == "builtin:" }

// Cores returns how many of n cores the build keeps busy, by what is known of it.
func (r *Request) Cores(n int) int {
	if r.Parallel && !r.DontBuild && r.Fixed == nil {
		return max(n, 1)
	}
	return 1
}

// Prior is the estimate for a build of which there is no history at all: rough figures by label, for a machine of speed 1.
func (r *Request) Prior() Estimate {
	e := Estimate{Source: SourceGuess, Relative: true, P50: 20, P90: 120, MemoryP50: 200 << 20, MemoryP90: 1 << 30, OutputBytes: 8 << 20}
	switch label := r.Label(); label {
	case "":
	case "trivial":
		e.P50, e.P90, e.MemoryP50, e.MemoryP90, e.OutputBytes = 1, 5, 50<<20, 200<<20, 1<<20
	case "fixed-output":
		e.P50, e.P90, e.MemoryP50, e.MemoryP90 = 5, 60, 50<<20, 500<<20
	case "big-parallel":
		e.P50, e.P90, e.MemoryP50, e.MemoryP90, e.OutputBytes = 1800, 7200, 4<<30, 12<<30, 100<<20
	default:
		e.P50 = toolchainSeconds(label)
		e.P90 = 5 * e.P50
		e.MemoryP50, e.MemoryP90 = 500<<20, 2<<30
	}
	return e
}

// toolchainSeconds is what a build with a toolchain takes, order of magnitude, for want of history.
func toolchainSeconds(kind string) float64 {
	switch kind {
	case "bazel", "cuda":
		return 900
	case "llvm", "qt":
		return 240
	case "rust", "ghc", "swift":
		return 150
	case "nodejs", "java":
		return 90
	case "cmake", "meson", "go", "ocaml":
		return 60
	case "cc":
		return 30
	}
	return 20
}

// Source says where an estimate is from, the best first.
type Source string

// The sources of estimates.
const (
	// SourceMachine: builds of the same package and system on the same machine.
	SourceMachine Source = "this-machine"
	// SourceOthers: builds of the same package and system elsewhere, scaled by the machines' learned speeds.
	SourceOthers Source = "other-machines"
	// SourceStem: builds whose names differ by a version alone, scaled.
	SourceStem Source = "name-stem"
	// SourceLabel: builds with the same [Request.Label], scaled.
	SourceLabel Source = "label"
	// SourceGlobal: all builds, scaled.
	SourceGlobal Source = "global"
	// SourceGuess: [Request.Prior].
	SourceGuess Source = "guess"
)

// Estimate is what a build is expected to take on one machine. The zero value knows nothing.
type Estimate struct {
	// Source says where it is from; empty for an estimate that is not there.
	Source Source `json:"source,omitempty"`
	// Samples is how many builds it rests on.
	Samples int `json:"samples,omitempty"`
	// Relative durations are those of a machine of speed 1; others are the machine's own.
	Relative bool `json:"relative,omitempty"`
	// P50 and P90 are wall-clock seconds: half of the builds take less, nine of ten do.
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	// MemoryP50 and MemoryP90 are of the peak memory in bytes; 0 is unknown.
	MemoryP50 int64 `json:"memory_p50,omitempty"`
	MemoryP90 int64 `json:"memory_p90,omitempty"`
	// MemorySamples is how many builds of this very package the memory rests on; with 0 it is a guess.
	MemorySamples int `json:"memory_samples,omitempty"`
	// OutputBytes is the median of the outputs' size; 0 is unknown.
	OutputBytes int64 `json:"output_bytes,omitempty"`
}

// known says that the estimate rests on builds of this very package, enough of them to overrule what labels say.
func (e *Estimate) known() bool {
	return e.Samples >= 3 && (e.Source == SourceMachine || e.Source == SourceOthers)
}

// Class is how much effort a build is.
type Class string

// The classes.
const (
	// Trivial builds take less than sending them does.
	Trivial Class = "trivial"
	// Ordinary builds are the others.
	Ordinary Class = "ordinary"
	// Heavy builds are felt on this machine.
	Heavy Class = "heavy"
)

// Sign is a reason for a build's class. It is a name that stays as it is.
type Sign string

// The signs.
const (
	// SignPreferLocal: preferLocalBuild is set.
	SignPreferLocal Sign = "prefer-local-build"
	// SignFixedOutput: the output's hash is known; a download.
	SignFixedOutput Sign = "fixed-output"
	// SignBuiltin: Nix builds it itself.
	SignBuiltin Sign = "builtin"
	// SignNoSubstitutes: allowSubstitutes is off, and no compiler is among the inputs.
	SignNoSubstitutes Sign = "no-substitutes"
	// SignShort: nine of ten past builds were short.
	SignShort Sign = "history-short"
	// SignLong: one of ten past builds was long.
	SignLong Sign = "history-long"
	// SignMemory: past builds took a great part of this machine's memory.
	SignMemory Sign = "history-memory"
	// SignBigParallel: big-parallel is required.
	SignBigParallel Sign = "big-parallel"
	// SignVirtualMachine: kvm or nixos-test is required.
	SignVirtualMachine Sign = "virtual-machine"
	// SignToolchain: a toolchain is among the inputs whose builds are mostly long.
	SignToolchain Sign = "toolchain"
	// SignManyInputs: there are very many inputs.
	SignManyInputs Sign = "many-inputs"
)

const (
	shortBuild   = 3.0  // seconds
	longBuild    = 60.0 // seconds
	memoryPart   = 0.25 // of the local machine's memory
	manyInputs   = 100
	heavyToolkit = 120.0 // seconds that a toolchain's builds take
)

// Classify says how much effort the build is, and each reason for it.
// The memory is this machine's in bytes, 0 if unknown. What is known of past builds overrules labels.
func (r *Request) Classify(e Estimate, memory int64) (Class, []Sign) {
	if signs := r.trivialSigns(); len(signs) > 0 {
		return Trivial, signs
	}
	var signs []Sign
	if e.known() {
		if e.P90 > longBuild {
			signs = append(signs, SignLong)
		}
		if memory > 0 && float64(e.MemoryP90) > memoryPart*float64(memory) {
			signs = append(signs, SignMemory)
		}
		switch {
		case len(signs) > 0:
			return Heavy, signs
		case e.P90 < shortBuild:
			return Trivial, []Sign{SignShort}
		}
		return Ordinary, nil
	}
	if signs = r.heavySigns(); len(signs) > 0 {
		return Heavy, signs
	}
	return Ordinary, nil
}

func (r *Request) trivialSigns() (signs []Sign) {
	if r.PreferLocal {
		signs = append(signs, SignPreferLocal)
	}
	if r.Fixed != nil {
		signs = append(signs, SignFixedOutput)
	}
	if r.builtin() {
		signs = append(signs, SignBuiltin)
	}
	if r.NoSubstitutes && len(r.Toolchains) == 0 && !slices.Contains(r.Features, "big-parallel") {
		signs = append(signs, SignNoSubstitutes)
	}
	return signs
}

func (r *Request) heavySigns() (signs []Sign) {
	for _, f := range r.Features {
		switch f {
		case "big-parallel":
			signs = append(signs, SignBigParallel)
		case "kvm", "nixos-test":
			if !slices.Contains(signs, SignVirtualMachine) {
				signs = append(signs, SignVirtualMachine)
			}
		}
	}
	if slices.ContainsFunc(r.Toolchains, func(t string) bool { return toolchainSeconds(t) > heavyToolkit }) {
		signs = append(signs, SignToolchain)
	}
	if r.InputDrvs > manyInputs {
		signs = append(signs, SignManyInputs)
	}
	return signs
}
