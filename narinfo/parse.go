package narinfo

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/voidnxlab/nixtrap/signing"
)

// MaxSize is the largest text that [Parse] accepts, in bytes: room for some 70,000 references.
const MaxSize = 16 << 20

// Bounds on what a small text can grow to.
const (
	maxRepeated   = 4096        // signatures and unknown fields together: their lines may be shorter than a Field
	maxReferences = 2 * MaxSize // the references' bytes as whole paths: each repeats the store directory
)

// Parse reads one narinfo: see the package comment for what it accepts.
// References and Deriver become whole paths in StorePath's directory.
// Parse keeps a copy of text, which the Info's strings share; beyond that and the Info it allocates next to nothing.
func Parse(text []byte) (*Info, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("narinfo: %d bytes, more than %d", len(text), MaxSize)
	}
	p := parser{info: &Info{}}
	rest, n := string(text), 0
	for rest != "" {
		n++
		line, after, ok := strings.Cut(rest, "\n")
		if !ok {
			return nil, fmt.Errorf("narinfo: line %d: no newline at the end", n)
		}
		err := p.line(line)
		if err == nil {
			err = p.info.checkRepeated()
		}
		if err != nil {
			return nil, fmt.Errorf("narinfo: line %d: %w", n, err)
		}
		rest = after
	}
	if err := p.finish(); err != nil {
		return nil, fmt.Errorf("narinfo: %w", err)
	}
	return p.info, nil
}

// field is the number of a single-valued field in knownFields.
type field uint16

const (
	fieldStorePath field = iota
	fieldURL
	fieldCompression
	fieldFileHash
	fieldFileSize
	fieldNarHash
	fieldNarSize
	fieldReferences
	fieldDeriver
	fieldSystem
	fieldCA
	fieldSig // the one that may come more than once
)

// knownFields is in canonical order but for Sig, which comes before CA.
var knownFields = [...]string{
	"StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver", "System",
	"CA", "Sig",
}

// parser gathers the lines. References and Deriver wait for StorePath, whose directory they need.
type parser struct {
	info       *Info
	seen       field // a bit for each single-valued field
	references string
	deriver    string
}

func (p *parser) line(line string) error {
	name, value, ok := strings.Cut(line, ": ")
	if !ok || strings.Contains(name, ":") {
		return fmt.Errorf("%q is not of the form NAME: VALUE", clip(line))
	}
	f := field(slices.Index(knownFields[:], name))
	if int(f) >= len(knownFields) {
		if !validExtraName(name) {
			return fmt.Errorf("%q is no field name", clip(name))
		}
		p.info.Extra = append(p.info.Extra, Field{name, value})
		return nil
	}
	if f != fieldSig && p.seen&(1<<f) != 0 {
		return fmt.Errorf("%s comes twice", name)
	}
	p.seen |= 1 << f
	if err := p.set(f, value); err != nil {
		return fmt.Errorf("%s %q: %w", name, clip(value), err)
	}
	return nil
}

func (p *parser) set(f field, value string) (err error) {
	i := p.info
	switch f {
	case fieldStorePath:
		i.StorePath, err = StorePath(value), checkStorePath(splitPath(value))
	case fieldURL:
		i.URL, err = value, checkWord(value)
	case fieldCompression:
		i.Compression, err = value, checkOptionalWord(value)
	case fieldFileHash:
		i.FileHash, err = parseHash(value)
	case fieldFileSize:
		i.FileSize, err = parseSize(value)
	case fieldNarHash:
		i.NarHash, err = parseHash(value)
	case fieldNarSize:
		i.NarSize, err = parseSize(value)
	case fieldReferences:
		p.references = value
	case fieldDeriver:
		p.deriver = value
	case fieldSystem:
		i.System, err = value, checkOptionalWord(value)
	case fieldCA:
		i.CA, err = parseOptionalCA(value)
	case fieldSig:
		i.Signatures, err = append(i.Signatures, signing.Signature(value)), checkSignature(value)
	}
	return err
}

// finish resolves base names and checks what concerns more than one line.
func (p *parser) finish() error {
	i := p.info
	if i.StorePath == "" {
		return errNoStorePath
	}
	dir := i.StorePath.Dir()
	var err error
	if i.References, err = parseReferences(dir, p.references); err != nil {
		return err
	}
	if p.seen&(1<<fieldDeriver) != 0 && p.deriver != "unknown-deriver" {
		if err := checkBase(p.deriver); err != nil {
			return fmt.Errorf("Deriver %q: %w", clip(p.deriver), err)
		}
		i.Deriver = StorePath(dir + "/" + p.deriver)
	}
	return i.checkRequired()
}

var (
	errNoStorePath = errors.New("no StorePath")
	errNoURL       = errors.New("no URL")
	errNarHash     = errors.New("no NarHash of type sha256")
	errNarSize     = errors.New("no NarSize above 0")
	errReferences  = fmt.Errorf("more than %d bytes of references as whole paths", maxReferences)
)

func (i *Info) checkRepeated() error {
	if len(i.Signatures)+len(i.Extra) > maxRepeated {
		return fmt.Errorf("more than %d signatures and unknown fields", maxRepeated)
	}
	return nil
}

func (i *Info) checkRequired() error {
	switch {
	case i.StorePath == "":
		return errNoStorePath
	case i.URL == "":
		return errNoURL
	case i.NarHash.Type() != SHA256:
		return errNarHash
	case i.NarSize <= 0:
		return errNarSize
	}
	return nil
}

// parseReferences turns base names into whole paths, sorted and each once. All paths share one backing string.
func parseReferences(dir, value string) ([]StorePath, error) {
	count := 0
	size := 0
	for base := range words(value) {
		if err := checkBase(base); err != nil {
			return nil, fmt.Errorf("reference %q: %w", clip(base), err)
		}
		count++
		size += len(dir) + 1 + len(base)
	}
	if size > maxReferences {
		return nil, errReferences
	}
	if count == 0 {
		return nil, nil
	}
	var all strings.Builder
	all.Grow(size)
	paths := make([]StorePath, 0, count)
	for base := range words(value) {
		start := all.Len()
		all.WriteString(dir)
		all.WriteByte('/')
		all.WriteString(base)
		paths = append(paths, StorePath(all.String()[start:]))
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// words splits at spaces alone, as Nix does.
func words(value string) iter.Seq[string] {
	return strings.FieldsFuncSeq(value, func(r rune) bool { return r == ' ' })
}

func parseOptionalCA(value string) (ContentAddress, error) {
	if value == "" {
		return "", nil
	}
	return ParseContentAddress(value)
}

// parseSize reads a decimal number in its one canonical spelling.
func parseSize(value string) (int64, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	var buf [maxDigits]byte
	if err != nil || n < 0 || !bytes.Equal(appendInt(buf[:0], n), []byte(value)) {
		return 0, errors.New("no size")
	}
	return n, nil
}

func checkWord(s string) error {
	if s == "" {
		return errors.New("empty")
	}
	return checkOptionalWord(s)
}

// checkOptionalWord refuses what could not be one word of one line.
func checkOptionalWord(s string) error {
	if hasControl(s) || strings.Contains(s, " ") {
		return errors.New("a space or a control character")
	}
	return nil
}

func checkSignature(s string) error {
	if signing.Signature(s).KeyName() == "" {
		return errors.New("not of the form NAME:SIGNATURE")
	}
	return checkOptionalWord(s)
}

// validExtraName is true for a name that would be read back as the name of an unknown field.
func validExtraName(name string) bool {
	return name != "" && !hasControl(name) && !strings.Contains(name, ":") && !slices.Contains(knownFields[:], name)
}
