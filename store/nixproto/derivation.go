package nixproto

import (
	"fmt"
	"slices"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Derivation is what a builder needs of a derivation: its build, without the derivations that made its inputs.
//
// On the wire: a list of outputs (name, path, algorithm, hash), then InputSrcs, Platform, Builder, Args and Env.
type Derivation struct {
	Outputs   map[string]Output   // by name
	InputSrcs []narinfo.StorePath // all that the build may read: valid paths, with all that they refer to
	Platform  string              // "x86_64-linux", "builtin" …
	Builder   string              // a path, or "builtin:fetchurl" and the like
	Args      []string
	Env       map[string]string // structured attributes are the key "__json"
}

// Output is what is known of an output before it is built. The three kinds:
//
//	            Path    Algorithm      Hash
//	by input    yes     ""             ""
//	fixed       yes     "r:sha256" …   base 16
//	floating    ""      "r:sha256" …   "", or "impure"
//	deferred    ""      ""             ""
type Output struct {
	Path      narinfo.StorePath
	Algorithm string // with Nix's prefix: "" for a flat file, "r:" for an archive, "text:"
	Hash      string
}

// ContentAddressed reports whether the outputs' paths follow from their contents, so that whoever asks for the build
// needs no trust: a daemon that does not trust its client builds nothing else.
func (d *Derivation) ContentAddressed() bool {
	for _, o := range d.Outputs {
		if o.Algorithm == "" {
			return false
		}
	}
	return len(d.Outputs) > 0
}

func encodeDerivation(e *encoder, d *Derivation) {
	mapTo(e, d.Outputs, func(o Output) {
		e.string(string(o.Path))
		e.string(o.Algorithm)
		e.string(o.Hash)
	})
	e.paths(d.InputSrcs)
	e.string(d.Platform)
	e.string(d.Builder)
	e.strings(d.Args)
	mapTo(e, d.Env, e.string)
}

func decodeDerivation(d *decoder) *Derivation {
	drv := new(Derivation)
	drv.Outputs = mapOf(d, func() Output {
		return Output{decodeOptionalPath(d), d.string(), d.string()}
	})
	drv.InputSrcs = decodePaths(d)
	drv.Platform, drv.Builder = d.string(), d.string()
	drv.Args = listOf(d, d.longString)
	drv.Env = mapOf(d, d.longString)
	return drv
}

// DerivedPath is something to have: a store path as it is, or outputs of a derivation.
type DerivedPath struct {
	Path    narinfo.StorePath
	Outputs []string // nil for Path itself; {"*"} for all outputs of the derivation Path
}

// ParseDerivedPath reads "PATH" or "DRV!OUTPUT,OUTPUT…" or "DRV!*".
func ParseDerivedPath(text string) (DerivedPath, error) {
	base, outputs, built := strings.Cut(text, "!")
	path, err := narinfo.ParseStorePath(base)
	if err != nil {
		return DerivedPath{}, fmt.Errorf("nixproto: derived path %q: %v", text, err)
	}
	p := DerivedPath{Path: path}
	if !built {
		return p, nil
	}
	p.Outputs = strings.Split(outputs, ",")
	if slices.Contains(p.Outputs, "") || strings.Contains(outputs, "!") || !path.IsDerivation() {
		return DerivedPath{}, fmt.Errorf("nixproto: derived path %q", text)
	}
	return p, nil
}

// String returns what [ParseDerivedPath] reads.
func (p DerivedPath) String() string {
	if p.Outputs == nil {
		return string(p.Path)
	}
	return string(p.Path) + "!" + strings.Join(p.Outputs, ",")
}

func encodeDerivedPaths(e *encoder, paths []DerivedPath) {
	listTo(e, paths, func(p DerivedPath) { e.string(p.String()) })
}

func decodeDerivedPath(d *decoder) DerivedPath {
	text := d.string()
	if d.err != nil {
		return DerivedPath{}
	}
	p, err := ParseDerivedPath(text)
	if err != nil {
		d.fail("%v", err)
	}
	return p
}

func decodeDerivedPaths(d *decoder) []DerivedPath {
	return listOf(d, func() DerivedPath { return decodeDerivedPath(d) })
}
