package narinfo

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxDigits is the length of the largest int64 in decimal.
const maxDigits = 19

// MarshalText writes the canonical form, Nix's field order, ending in a newline: see [Info.AppendText].
func (i *Info) MarshalText() ([]byte, error) { return i.AppendText(make([]byte, 0, i.textSize())) }

// AppendText is MarshalText onto b.
// An Info that [Parse] could not give back is an error, and b is returned as it was: one without StorePath, URL,
// NarHash or NarSize, with unsorted References, with paths of another store directory, with values that would break
// their line, or beyond the limits in the package comment.
func (i *Info) AppendText(b []byte) ([]byte, error) {
	if err := i.check(); err != nil {
		return b, fmt.Errorf("narinfo: %q: %w", clip(string(i.StorePath)), err)
	}
	start := len(b)
	out := i.appendFields(b)
	if len(out)-start > MaxSize {
		return b, fmt.Errorf("narinfo: %q: %d bytes, more than %d", i.StorePath, len(out)-start, MaxSize)
	}
	return out, nil
}

func (i *Info) appendFields(b []byte) []byte {
	b = appendField(b, "StorePath", string(i.StorePath))
	b = appendField(b, "URL", i.URL)
	b = appendOptional(b, "Compression", i.Compression)
	if !i.FileHash.IsZero() {
		b = append(i.FileHash.appendText(append(b, "FileHash: "...)), '\n')
	}
	if i.FileSize != 0 {
		b = append(appendInt(append(b, "FileSize: "...), i.FileSize), '\n')
	}
	b = append(i.NarHash.appendText(append(b, "NarHash: "...)), '\n')
	b = append(appendInt(append(b, "NarSize: "...), i.NarSize), '\n')
	b = append(b, "References: "...)
	for n, r := range i.References {
		if n > 0 {
			b = append(b, ' ')
		}
		b = append(b, r.Base()...)
	}
	b = append(b, '\n')
	b = appendOptional(b, "Deriver", i.Deriver.Base())
	b = appendOptional(b, "System", i.System)
	for _, s := range i.Signatures {
		b = appendField(b, "Sig", string(s))
	}
	b = appendOptional(b, "CA", string(i.CA))
	for _, f := range i.Extra {
		b = appendField(b, f.Name, f.Value)
	}
	return b
}

func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), '\n')
}

func appendOptional(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendField(b, name, value)
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

// textSize bounds the length of the text from above, roughly.
func (i *Info) textSize() int {
	size := 160 + len(i.StorePath) + len(i.URL) + len(i.Compression) + 2*(maxHashText+maxDigits) +
		len(i.Deriver) + len(i.System) + len(i.CA)
	for _, r := range i.References {
		size += len(r)
	}
	for _, s := range i.Signatures {
		size += len(s) + len("Sig: \n")
	}
	for _, f := range i.Extra {
		size += len(f.Name) + len(f.Value) + len(": \n")
	}
	return size
}

// check reports why Parse would not give the Info back.
func (i *Info) check() error {
	if err := i.checkRequired(); err != nil {
		return err
	}
	if err := i.checkRepeated(); err != nil {
		return err
	}
	if err := checkStorePath(splitPath(string(i.StorePath))); err != nil {
		return err
	}
	if i.FileSize < 0 {
		return fmt.Errorf("FileSize %d", i.FileSize)
	}
	if err := i.checkPaths(); err != nil {
		return err
	}
	return i.checkTexts()
}

func (i *Info) checkPaths() error {
	dir := i.StorePath.Dir()
	size := 0
	for n, r := range i.References {
		if n > 0 && i.References[n-1] >= r {
			return fmt.Errorf("References are not sorted at %q", clip(string(r)))
		}
		if err := checkSibling(dir, r); err != nil {
			return fmt.Errorf("reference %q: %w", clip(string(r)), err)
		}
		size += len(r)
	}
	if size > maxReferences {
		return errReferences
	}
	if i.Deriver == "" {
		return nil
	}
	if err := checkSibling(dir, i.Deriver); err != nil {
		return fmt.Errorf("Deriver %q: %w", clip(string(i.Deriver)), err)
	}
	return nil
}

func checkSibling(dir string, p StorePath) error {
	if p.Dir() != dir {
		return fmt.Errorf("not in %q", dir)
	}
	return checkBase(p.Base())
}

func (i *Info) checkTexts() error {
	for _, w := range [...]Field{{"URL", i.URL}, {"Compression", i.Compression}, {"System", i.System}} {
		if err := checkOptionalWord(w.Value); err != nil {
			return fmt.Errorf("%s %q: %w", w.Name, clip(w.Value), err)
		}
	}
	for _, s := range i.Signatures {
		if err := checkSignature(string(s)); err != nil {
			return fmt.Errorf("Sig %q: %w", clip(string(s)), err)
		}
	}
	if ca, err := parseOptionalCA(string(i.CA)); err != nil || ca != i.CA {
		return fmt.Errorf("CA %q is not canonical", clip(string(i.CA)))
	}
	bad := func(f Field) bool { return !validExtraName(f.Name) || strings.Contains(f.Value, "\n") }
	if n := slices.IndexFunc(i.Extra, bad); n >= 0 {
		return fmt.Errorf("extra field %q would not be read back", clip(i.Extra[n].Name))
	}
	return nil
}
