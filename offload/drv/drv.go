// Package drv reads from a .drv file what placing its build depends on: an [offload.Request].
//
// Most callers want [Read], which opens the file; [Parse] takes its content.
//
// # What is read
//
// A .drv is a term in ATerm's syntax: outputs, inputs, system, builder, arguments and environment.
// Attributes come from the environment, where true is "1" and a list is words,
// or, with structured attributes, from the JSON object in the variable __json, where they are booleans and lists.
//
//	pname, version             as they are
//	requiredSystemFeatures     the features
//	preferLocalBuild           PreferLocal
//	allowSubstitutes           NoSubstitutes, if it is there and false
//	enableParallelBuilding     Parallel
//	dontBuild                  DontBuild
//	doCheck, doInstallCheck    Checks
//
// An output with a hash makes the derivation a fixed output, one with a hash's kind alone is content-addressed.
//
// # Limits
//
// A file of more than 16 MiB, and nested JSON that has a value of the wrong kind under one of these names, are errors;
// Nix writes neither. Nothing of the file's memory is kept.
package drv

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/derivation"

	"github.com/voidnxlab/nixtrap/offload"
)

// MaxSize is the size in bytes of the largest .drv file that is read.
const MaxSize = 16 << 20

const (
	maxName     = 211 // bytes of a store path's name
	maxWord     = 256 // bytes of a feature, a version, a system
	maxFeatures = 256
)

// Read reads a .drv file. Its path is the derivation's store path, unless storePath is another.
func Read(file, storePath string) (*offload.Request, error) {
	if storePath == "" {
		storePath = file
	}
	d, err := open(file)
	if err != nil {
		return nil, err
	}
	return requestFor(storePath, d)
}

// open reads a file whose path is what errors name.
func open(file string) (*derivation.Derivation, error) {
	info, err := os.Lstat(file)
	if err != nil {
		return nil, fmt.Errorf("drv: %w", err)
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait for somebody to write
		return nil, fmt.Errorf("drv: %q is no regular file", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("drv: %w", err)
	}
	defer f.Close()
	return readTerm(file, f)
}

// Parse reads a .drv file's content to its end. The store path names the derivation.
func Parse(storePath string, content io.Reader) (*offload.Request, error) {
	d, err := readTerm(storePath, content)
	if err != nil {
		return nil, err
	}
	return requestFor(storePath, d)
}

func readTerm(name string, content io.Reader) (*derivation.Derivation, error) {
	limited := &io.LimitedReader{R: content, N: MaxSize + 1}
	d, err := parse(limited)
	if limited.N <= 0 {
		return nil, fmt.Errorf("drv: %q has more than %d bytes", name, MaxSize)
	}
	if d == nil { // an error beside a derivation is a judgement of its paths, and content-addressed outputs have none
		return nil, fmt.Errorf("drv: %q: %v", name, err)
	}
	return d, nil
}

func requestFor(storePath string, d *derivation.Derivation) (*offload.Request, error) {
	r, err := request(storePath, d)
	if err != nil {
		return nil, fmt.Errorf("drv: %q: %w", storePath, err)
	}
	return r, nil
}

// Inputs returns the paths that a derivation in a store is built from directly: its sources, and the outputs that it takes of
// other derivations, whose files are read from the store too. root is the folder in which the store's folder is. Outputs whose
// paths are known only once they are built are left out.
func Inputs(root, storePath string) ([]string, error) {
	d, err := open(filepath.Join(root, storePath))
	if err != nil {
		return nil, err
	}
	inputs := slices.Clone(d.InputSources)
	for path, outputs := range d.InputDerivations {
		input, err := open(filepath.Join(root, path))
		if err != nil {
			return nil, err
		}
		for _, name := range outputs {
			if o := input.Outputs[name]; o != nil && o.Path != "" {
				inputs = append(inputs, o.Path)
			}
		}
	}
	slices.Sort(inputs)
	return slices.Compact(inputs), nil
}

// parse reads the term. The parser panics on some terms that Nix would not write (with "null" for the structured
// attributes, for one), and any user may put a file of that kind into a store.
func parse(r io.Reader) (d *derivation.Derivation, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			d, err = nil, fmt.Errorf("malformed: %v", cause)
		}
	}()
	return derivation.ReadDerivation(r)
}

func request(storePath string, d *derivation.Derivation) (*offload.Request, error) {
	if len(d.Outputs) == 0 || d.Platform == "" || d.Builder == "" {
		return nil, errors.New("outputs, system or builder are missing")
	}
	a, err := readAttributes(d.Env)
	if err != nil {
		return nil, err
	}
	r := &offload.Request{
		DrvPath:         strings.Clone(storePath),
		Name:            nameOf(storePath),
		PName:           a.text("pname"),
		Version:         a.text("version"),
		System:          strings.Clone(d.Platform),
		Features:        a.list("requiredSystemFeatures"),
		Builder:         strings.Clone(d.Builder),
		PreferLocal:     a.flag("preferLocalBuild", false),
		NoSubstitutes:   !a.flag("allowSubstitutes", true),
		Parallel:        a.flag("enableParallelBuilding", false),
		DontBuild:       a.flag("dontBuild", false),
		Checks:          a.flag("doCheck", false) || a.flag("doInstallCheck", false),
		StructuredAttrs: a.structured != nil,
		InputDrvs:       len(d.InputDerivations),
		InputSources:    len(d.InputSources),
		Toolchains:      toolchains(d.InputDerivations),
	}
	if a.err != nil {
		return nil, a.err
	}
	r.Stem = Stem(r.Name)
	slices.Sort(r.Features)
	r.Features = slices.Compact(r.Features)
	for name, output := range d.Outputs {
		r.Outputs = append(r.Outputs, strings.Clone(name))
		if output.HashAlgorithm == "" {
			continue
		}
		algorithm, recursive := strings.CutPrefix(output.HashAlgorithm, "r:")
		if output.Hash == "" || output.Hash == "impure" {
			r.ContentAddressed = true
			continue
		}
		r.Fixed = &offload.FixedOutput{Algorithm: strings.Clone(algorithm), Hash: strings.Clone(output.Hash), Recursive: recursive}
	}
	slices.Sort(r.Outputs)
	if err := check(r); err != nil {
		return nil, err
	}
	return r, nil
}

// check refuses what would be a burden to keep for years; Nix's own limits are lower.
func check(r *offload.Request) error {
	words := append([]string{r.System, r.PName, r.Version}, append(r.Features, r.Outputs...)...)
	if r.Name == "" || len(r.Name) > maxName || len(r.Features) > maxFeatures || len(r.Outputs) > maxFeatures {
		return errors.New("no name, or more names than anybody needs")
	}
	for _, w := range words {
		if len(w) > maxWord {
			return fmt.Errorf("a word of %d bytes", len(w))
		}
	}
	return nil
}

// nameOf returns what follows the hash in a derivation's path, without .drv.
func nameOf(storePath string) string {
	base := storePath[strings.LastIndexByte(storePath, '/')+1:]
	base = strings.TrimSuffix(base, ".drv")
	if len(base) > 33 && base[32] == '-' {
		base = base[33:]
	}
	return strings.Clone(base)
}

// Stem returns a name without its trailing digits, dots and dashes, as nix-output-monitor keeps names:
// "hello-2.12.1" is "hello". A name of nothing else is its own stem.
func Stem(name string) string {
	if stem := strings.TrimRight(name, "0123456789.-"); stem != "" {
		return stem
	}
	return name
}

// attributes are a derivation's, whichever way they are kept.
type attributes struct {
	env        map[string]string
	structured map[string]json.RawMessage // nil if there are none
	err        error                      // the first value of a wrong kind
}

func readAttributes(env map[string]string) (*attributes, error) {
	a := &attributes{env: env}
	if text, ok := env["__json"]; ok {
		if err := json.Unmarshal([]byte(text), &a.structured); err != nil || a.structured == nil {
			return nil, fmt.Errorf("structured attributes are no JSON object: %v", err)
		}
	}
	return a, nil
}

// decode takes an attribute's JSON, and says whether it is there.
func (a *attributes) decode(name string, into any) bool {
	raw, ok := a.structured[name]
	if !ok || string(raw) == "null" {
		return false
	}
	if err := json.Unmarshal(raw, into); err != nil {
		a.fail(name)
		return false
	}
	return true
}

func (a *attributes) fail(name string) {
	if a.err == nil {
		a.err = fmt.Errorf("attribute %s is of the wrong kind", name)
	}
}

func (a *attributes) text(name string) (s string) {
	if a.structured == nil {
		return strings.Clone(a.env[name])
	}
	a.decode(name, &s)
	return s
}

func (a *attributes) list(name string) (words []string) {
	if a.structured == nil {
		for _, w := range strings.Fields(a.env[name]) {
			words = append(words, strings.Clone(w))
		}
		return words
	}
	a.decode(name, &words)
	return words
}

func (a *attributes) flag(name string, otherwise bool) bool {
	if a.structured == nil {
		value, ok := a.env[name]
		if !ok {
			return otherwise
		}
		return value == "1"
	}
	var value any
	if !a.decode(name, &value) {
		return otherwise
	}
	switch v := value.(type) {
	case bool:
		return v
	case string: // nixpkgs has passed "1" and "" where Nix wants booleans
		return v == "1"
	case float64:
		return v == 1
	}
	a.fail(name)
	return otherwise
}
