package hook

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Limits of what Nix says, in bytes. Real settings take some 10 KiB, and a build's inputs 80 bytes each.
const (
	maxString   = 1 << 20
	maxSettings = 4 << 20
	maxTry      = 1 << 20
	maxBuild    = 64 << 20
)

const wordSize = 8

// ErrProtocol is wrapped by errors about words that make no sense or are beyond the limits.
var ErrProtocol = errors.New("hook: not the build-hook protocol")

// Setting is one of Nix's settings, with the value that it has for this client.
type Setting struct{ Name, Value string }

// Settings are all of Nix's settings, in the order in which Nix sent them. Which ones there are depends on its release.
type Settings []Setting

// Lookup returns a setting's value, and whether Nix has sent it.
func (s Settings) Lookup(name string) (string, bool) {
	for _, setting := range s {
		if setting.Name == name {
			return setting.Value, true
		}
	}
	return "", false
}

// With returns a copy with one setting changed, or added at the end.
func (s Settings) With(name, value string) Settings {
	changed := slices.Clone(s)
	for i := range changed {
		if changed[i].Name == name {
			changed[i].Value = value
			return changed
		}
	}
	return append(changed, Setting{name, value})
}

// Try is a question of Nix's: shall this be built elsewhere?
type Try struct {
	// Willing says that Nix has a slot free to build it here, now.
	Willing bool `json:"willing"`
	// System is the platform to build on, such as "x86_64-linux", or "builtin".
	System string `json:"system"`
	// Drv is the derivation's path in the local store.
	Drv string `json:"drv"`
	// Features are those that the machine must have.
	Features []string `json:"features,omitempty"`
}

// Build is what Nix says of a build that was accepted.
type Build struct {
	// Inputs are the paths that the build needs and all that they refer to, without the derivation.
	Inputs []string
	// Outputs are the names of the outputs that are missing here.
	Outputs []string
}

// Reader reads what Nix says. It is not safe for concurrent use.
// Its first error sticks. Truncation is io.ErrUnexpectedEOF, anything else that is wrong wraps [ErrProtocol].
type Reader struct {
	r      *bufio.Reader
	budget uint64 // bytes that the current message may still take
	err    error
}

// NewReader returns a Reader of r, which it reads ahead of: see [Reader.Rest].
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReader(r)} }

// Settings reads the settings, which come first.
func (r *Reader) Settings() (Settings, error) {
	r.budget = maxSettings
	var settings Settings
	for r.more() {
		setting := Setting{Name: r.string(), Value: r.string()}
		if r.err != nil {
			return nil, r.err
		}
		settings = append(settings, setting)
	}
	return settings, r.err
}

// more reads what stands before each setting and behind the last.
func (r *Reader) more() bool {
	n := r.uint64()
	if n > 1 {
		r.fail("%d before a setting", n)
	}
	return n == 1
}

// Next reads the next question. The error is io.EOF if Nix has no more.
func (r *Reader) Next() (*Try, error) {
	if r.err != nil {
		return nil, r.err
	}
	if _, err := r.r.Peek(1); err != nil {
		r.err = err
		return nil, err
	}
	r.budget = maxTry
	if word := r.string(); r.err == nil && word != "try" {
		r.fail("%q instead of a try", word)
	}
	try := &Try{Willing: r.uint64() != 0, System: r.string(), Drv: r.string(), Features: r.strings()}
	if r.err != nil {
		return nil, r.err
	}
	return try, nil
}

// Build reads what follows a reply that accepts. It takes the memory that the list of inputs takes, 64 MiB at most;
// [Serve] copies it instead.
func (r *Reader) Build() (*Build, error) {
	r.budget = maxBuild
	build := &Build{Inputs: r.strings(), Outputs: r.strings()}
	if r.err != nil {
		return nil, r.err
	}
	return build, nil
}

// Rest is what has not been read yet.
func (r *Reader) Rest() io.Reader { return r.r }

func (r *Reader) uint64() uint64 {
	var word [wordSize]byte
	if !r.spend(wordSize) || !r.full(word[:]) {
		return 0
	}
	return binary.LittleEndian.Uint64(word[:])
}

func (r *Reader) string() string {
	n := r.uint64()
	if n > maxString {
		r.fail("string of %d bytes is longer than %d", n, maxString)
	}
	padded := n + padding(n)
	if !r.spend(padded) {
		return ""
	}
	text := make([]byte, padded)
	if !r.full(text) {
		return ""
	}
	for _, b := range text[n:] {
		if b != 0 {
			r.fail("string's padding is not zero")
			return ""
		}
	}
	return string(text[:n])
}

// strings reads a list. It grows with what has arrived, never with what was announced.
func (r *Reader) strings() []string {
	n := r.uint64()
	if n > r.budget/wordSize {
		r.fail("list of %d items is longer than the limit", n)
	}
	var list []string
	for range n {
		s := r.string()
		if r.err != nil {
			return nil
		}
		list = append(list, s)
	}
	return list
}

func (r *Reader) spend(n uint64) bool {
	if r.err != nil {
		return false
	}
	if n > r.budget {
		r.fail("message is longer than the limit")
		return false
	}
	r.budget -= n
	return true
}

func (r *Reader) full(p []byte) bool {
	_, err := io.ReadFull(r.r, p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	r.err = err
	return err == nil
}

func (r *Reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
	}
}

func padding(n uint64) uint64 { return -n % wordSize }

func appendUint64(b []byte, n uint64) []byte { return binary.LittleEndian.AppendUint64(b, n) }

func appendString(b []byte, s string) []byte {
	b = append(appendUint64(b, uint64(len(s))), s...)
	return append(b, make([]byte, padding(uint64(len(s))))...)
}

func appendStrings(b []byte, list []string) []byte {
	b = appendUint64(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendSettings(b []byte, settings Settings) []byte {
	for _, s := range settings {
		b = appendString(appendString(appendUint64(b, 1), s.Name), s.Value)
	}
	return appendUint64(b, 0)
}

func appendTry(b []byte, try *Try) []byte {
	var willing uint64
	if try.Willing {
		willing = 1
	}
	b = appendUint64(appendString(b, "try"), willing)
	return appendStrings(appendString(appendString(b, try.System), try.Drv), try.Features)
}

func appendBuild(b []byte, build *Build) []byte {
	return appendStrings(appendStrings(b, build.Inputs), build.Outputs)
}
