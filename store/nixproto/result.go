package nixproto

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// BuildMode says what a build is for.
type BuildMode uint8

const (
	BuildNormal BuildMode = iota // build what is not there
	BuildRepair                  // replace outputs that are damaged
	BuildCheck                   // build what is there once more, and compare
)

func decodeBuildMode(d *decoder) BuildMode {
	n := d.uint64()
	if n > uint64(BuildCheck) {
		d.fail("build mode %d is not known", n)
	}
	return BuildMode(n)
}

// BuildStatus says how a build ended. The numbers are the protocols' own.
type BuildStatus uint8

const (
	Built                  BuildStatus = iota // now
	Substituted                               // fetched, not built
	AlreadyValid                              // nothing was to be done
	PermanentFailure                          // the builder failed, and would again
	InputRejected                             // the derivation itself is at fault
	OutputRejected                            // a fixed output with another hash, and the like
	TransientFailure                          // another try may do better
	CachedFailure                             // it failed before
	TimedOut                                  // too long, or too long silent
	MiscFailure                               // no other
	DependencyFailed                          // a build that this one needs failed
	LogLimitExceeded                          // max-log-size
	NotDeterministic                          // BuildCheck got something else
	ResolvesToAlreadyValid                    // as another derivation, whose outputs are there
	NoSubstituters                            // nobody has it, and it cannot be built
)

var statusNames = [...]string{
	"built", "substituted", "already valid", "permanent failure", "input rejected", "output rejected",
	"transient failure", "cached failure", "timed out", "misc failure", "dependency failed", "log limit exceeded",
	"not deterministic", "resolves to already valid", "no substituters",
}

// String says the status in words.
func (s BuildStatus) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// OK reports whether the outputs are there.
func (s BuildStatus) OK() bool {
	return s == Built || s == Substituted || s == AlreadyValid || s == ResolvesToAlreadyValid
}

// BuildResult is how a build ended. A build that fails is a result, not an error.
//
// On the wire, in this order: Status, Message; TimesBuilt, NotDeterministic, Start, Stop (worker protocol 1.29, serve 2.3);
// CPUUser, CPUSystem (worker 1.37 alone); Outputs (worker 1.28, serve 2.6).
type BuildResult struct {
	Status           BuildStatus
	Message          string // of a failure; may span lines and hold terminal escapes
	TimesBuilt       uint64 // 0 where nothing was built
	NotDeterministic bool
	Start, Stop      time.Time     // in whole seconds; zero where not known
	CPUUser          time.Duration // in microseconds; 0 where not known, as without cgroups
	CPUSystem        time.Duration

	// Outputs holds each output's realisation, Nix's JSON text, by its id "sha256:BASE16!OUTPUT".
	// It is empty after a failure.
	Outputs map[string][]byte
}

// OutputPaths returns the outputs' paths by the outputs' names, in the store directory dir ("/nix/store").
// An output's realisation that does not parse is an error.
func (r *BuildResult) OutputPaths(dir string) (map[string]narinfo.StorePath, error) {
	paths := make(map[string]narinfo.StorePath, len(r.Outputs))
	for id, text := range r.Outputs {
		_, name, ok := strings.Cut(id, "!")
		if !ok {
			return nil, fmt.Errorf("nixproto: realisation of %q, which names no output", id)
		}
		var realisation struct {
			OutPath string `json:"outPath"`
		}
		if err := json.Unmarshal(text, &realisation); err != nil {
			return nil, fmt.Errorf("nixproto: realisation of %q: %v", id, err)
		}
		path, err := narinfo.NewStorePath(dir, realisation.OutPath)
		if err != nil {
			return nil, fmt.Errorf("nixproto: realisation of %q: %v", id, err)
		}
		paths[name] = path
	}
	return paths, nil
}

// PathResult is the result of one of the paths that were asked for.
type PathResult struct {
	Path DerivedPath
	BuildResult
}

// resultParts says which fields a protocol's version has.
type resultParts struct{ times, cpu, outputs bool }

func (v Version) resultParts() resultParts {
	return resultParts{times: true, cpu: v.AtLeast(1, 37), outputs: true} // 1.29 and 1.28 are older than 1.32
}

func encodeResult(e *encoder, r *BuildResult, has resultParts) {
	e.uint64(uint64(r.Status))
	e.string(r.Message)
	if has.times {
		e.uint64(r.TimesBuilt)
		e.bool(r.NotDeterministic)
		encodeTime(e, r.Start)
		encodeTime(e, r.Stop)
	}
	if has.cpu {
		encodeCPU(e, r.CPUUser)
		encodeCPU(e, r.CPUSystem)
	}
	if has.outputs {
		mapTo(e, r.Outputs, func(text []byte) { e.string(string(text)) })
	}
}

func decodeResult(d *decoder, has resultParts) BuildResult {
	status := d.uint64()
	if status > uint64(NoSubstituters) {
		d.fail("build status %d is not known", status)
	}
	r := BuildResult{Status: BuildStatus(status), Message: d.longString()}
	if has.times {
		r.TimesBuilt, r.NotDeterministic = d.uint64(), d.bool()
		r.Start, r.Stop = decodeTime(d), decodeTime(d)
	}
	if has.cpu {
		r.CPUUser, r.CPUSystem = decodeCPU(d), decodeCPU(d)
	}
	if has.outputs {
		r.Outputs = mapOf(d, func() []byte { return []byte(d.string()) })
	}
	return r
}

func encodePathResult(e *encoder, r PathResult, v Version) {
	e.string(r.Path.String())
	encodeResult(e, &r.BuildResult, v.resultParts())
}

func decodePathResult(d *decoder, v Version) PathResult {
	return PathResult{decodeDerivedPath(d), decodeResult(d, v.resultParts())}
}

const lastSecond = 253402300799 // of the year 9999, behind which JSON has no form for a time

func encodeTime(e *encoder, t time.Time) {
	if t.IsZero() {
		e.uint64(0)
		return
	}
	e.uint64(uint64(t.Unix()))
}

func decodeTime(d *decoder) time.Time {
	seconds := d.int64()
	if seconds > lastSecond {
		d.fail("time of %d seconds", seconds)
	}
	if seconds == 0 || d.err != nil {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

func encodeCPU(e *encoder, t time.Duration) {
	e.bool(t > 0)
	if t > 0 {
		e.uint64(uint64(t.Microseconds()))
	}
}

func decodeCPU(d *decoder) time.Duration {
	if !d.bool() {
		return 0
	}
	const most = int64(1<<63-1) / int64(time.Microsecond)
	us := d.int64()
	if us > most {
		d.fail("%d µs of CPU", us)
		return 0
	}
	return time.Duration(us) * time.Microsecond
}
