package narinfo

import (
	"fmt"
	"strings"
)

// DefaultStoreDir is where Nix keeps its store unless built or told otherwise.
const DefaultStoreDir = "/nix/store"

const (
	hashPartLen = 32
	maxNameLen  = 211
	// maxDirLen leaves room for the longest base name in the longest path that Linux opens, 4,095 bytes.
	maxDirLen = 4095 - len("/") - hashPartLen - len("-") - maxNameLen
)

// HashPart is the 32 base-32 characters that begin a store path's base name. Valid by construction: see ParseHashPart.
type HashPart string

// ParseHashPart checks the length, 32, and the alphabet, digits and lower-case letters without e, o, t and u.
func ParseHashPart(s string) (HashPart, error) {
	if err := checkHashPart(s); err != nil {
		return "", fmt.Errorf("narinfo: hash part %q: %w", clip(s), err)
	}
	return HashPart(s), nil
}

// StorePath is a whole, valid store path: STOREDIR "/" HASHPART "-" NAME. The zero value "" is no path.
// It is valid by construction: see [ParseStorePath] and [NewStorePath].
// The methods of a string that was merely converted return what they can and do not panic.
type StorePath string

// ParseStorePath checks an absolute store path.
//
// Its directory is absolute and clean, at least one component deep, without control characters, and has at most 3,850
// bytes.
// Its base name is 32 characters as in [ParseHashPart], a dash, and a name of 1 to 211 of [0-9a-zA-Z+-._?=] that is
// neither "." nor ".." nor begins with ".-" or "..-" (Nix 2.34's rule; older releases refuse every leading dot).
func ParseStorePath(s string) (StorePath, error) {
	dir, base := splitPath(s)
	if err := checkStorePath(dir, base); err != nil {
		return "", fmt.Errorf("narinfo: store path %q: %w", clip(s), err)
	}
	return StorePath(s), nil
}

// NewStorePath joins a store directory and a base name, with the checks of [ParseStorePath].
func NewStorePath(dir, base string) (StorePath, error) {
	if err := checkStorePath(dir, base); err != nil {
		return "", fmt.Errorf("narinfo: store path %q in %q: %w", clip(base), clip(dir), err)
	}
	return StorePath(dir + "/" + base), nil
}

// Dir returns the store directory, "/nix/store" for most.
func (p StorePath) Dir() string {
	dir, _ := splitPath(string(p))
	return dir
}

// Base returns the last component, HASHPART "-" NAME.
func (p StorePath) Base() string {
	_, base := splitPath(string(p))
	return base
}

// HashPart returns the 32 characters that identify the path within its store.
func (p StorePath) HashPart() HashPart {
	base := p.Base()
	return HashPart(base[:min(hashPartLen, len(base))])
}

// Name returns what follows the hash part's dash.
func (p StorePath) Name() string {
	base := p.Base()
	return base[min(hashPartLen+1, len(base)):]
}

// IsDerivation reports whether the name ends in ".drv".
func (p StorePath) IsDerivation() bool { return strings.HasSuffix(string(p), ".drv") }

func splitPath(s string) (dir, base string) {
	n := strings.LastIndexByte(s, '/')
	return s[:max(n, 0)], s[n+1:]
}

func checkStorePath(dir, base string) error {
	if err := checkStoreDir(dir); err != nil {
		return err
	}
	if err := checkBase(base); err != nil {
		return err
	}
	if len(dir) > maxDirLen {
		return fmt.Errorf("a directory of %d bytes, more than %d", len(dir), maxDirLen)
	}
	return nil
}

// checkStoreDir does without path.Clean, which would allocate for an unclean path.
func checkStoreDir(dir string) error {
	if len(dir) < 2 || dir[0] != '/' {
		return fmt.Errorf("the directory is not absolute")
	}
	for component := range strings.SplitSeq(dir[1:], "/") {
		if component == "" || component == "." || component == ".." {
			return fmt.Errorf("the directory is not clean")
		}
	}
	if hasControl(dir) {
		return fmt.Errorf("the directory has a control character")
	}
	return nil
}

func checkBase(base string) error {
	if len(base) <= hashPartLen || base[hashPartLen] != '-' {
		return fmt.Errorf("no 32 characters and a dash")
	}
	if err := checkHashPart(base[:hashPartLen]); err != nil {
		return err
	}
	return checkName(base[hashPartLen+1:])
}

func checkHashPart(s string) error {
	if len(s) != hashPartLen {
		return fmt.Errorf("%d characters, not %d", len(s), hashPartLen)
	}
	for i := range len(s) {
		if !inBase32[s[i]] {
			return fmt.Errorf("%q is not in Nix's base-32 alphabet", s[i])
		}
	}
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxNameLen {
		return fmt.Errorf("a name of %d characters, not 1 to %d", len(name), maxNameLen)
	}
	if first, _, _ := strings.Cut(name, "-"); first == "." || first == ".." {
		return fmt.Errorf("the name's first part is %q", first)
	}
	for i := range len(name) {
		if !inName[name[i]] {
			return fmt.Errorf("%q is not allowed in a name", name[i])
		}
	}
	return nil
}

// The alphabets as tables, for store paths are checked by the thousand.
var (
	inBase32 = charset("0123456789abcdfghijklmnpqrsvwxyz")
	inName   = charset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-._?=")
)

func charset(chars string) (set [256]bool) {
	for i := range len(chars) {
		set[chars[i]] = true
	}
	return set
}

func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// clip shortens outside data for an error message.
func clip(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
