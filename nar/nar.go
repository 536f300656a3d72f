// Package nar reads and writes Nix archives (NAR), the canonical serialisation of a file system object.
//
// Most callers want [Pack], which archives what lies at a path, [Unpack], which restores an archive,
// or [ScanLayout], which tells where in its archive each part of a tree lies, without reading any file.
// [Reader] and [Writer] handle archives entry by entry, as archive/tar does.
//
// # Format
//
// An archive is a sequence of strings.
// A string is its length as a 64-bit little-endian number, its bytes, and zero bytes up to a multiple of 8.
// In the grammar below a quoted word stands for that string:
//
//	archive   = "nix-archive-1" node
//	node      = "(" "type" ( regular | symlink | directory ) ")"
//	regular   = "regular" [ "executable" "" ] "contents" content
//	symlink   = "symlink" "target" target
//	directory = "directory" { "entry" "(" "name" name "node" node ")" }
//
// Entries of a directory are in strictly ascending order of their names, compared byte by byte.
// Nothing else of a file is kept: no owner, no times, no permission but the owner's right to execute.
// So one tree has exactly one archive, and an archive's SHA-256 identifies the tree.
// (Nix 2.8 also reads a file without "contents", or with "executable" twice or behind them; 2.34 and we do not.)
//
// # Limits
//
// What the Nix client enforces (2.34) is enforced here, before anything is allocated:
// nodes nest at most [MaxDepth] deep, a name has 1 to [MaxName] bytes, is not "." or ".."
// and has no slash and no NUL, a symlink's target has 1 to [MaxTarget] bytes and no NUL,
// padding is zero, and an archive is followed by nothing.
package nar

import "fmt"

// The limits of the Nix client.
const (
	MaxDepth  = 64   // nodes from the root down to any node, both counted
	MaxName   = 255  // bytes of a directory entry's name
	MaxTarget = 4095 // bytes of a symlink's target
)

var tooDeep = fmt.Sprintf("nodes nest more than %d deep", MaxDepth)

// Type is the kind of a node.
type Type uint8

// The kinds of nodes that an archive can hold.
const (
	TypeRegular Type = iota + 1
	TypeDirectory
	TypeSymlink
)

// String returns the type's name in the archive.
func (t Type) String() string {
	switch t {
	case TypeRegular:
		return "regular"
	case TypeDirectory:
		return "directory"
	case TypeSymlink:
		return "symlink"
	}
	return fmt.Sprintf("Type(%d)", uint8(t))
}

// Header describes one node of an archive.
type Header struct {
	Path       string // slash-separated and relative; "" is the root
	Type       Type
	Executable bool   // of a regular file
	Size       int64  // bytes of a regular file's content
	Target     string // of a symlink
	Offset     int64  // where a regular file's content begins in the archive; ignored when writing
}

// FormatError says where and why an archive is malformed.
type FormatError struct {
	Offset int64  // bytes from the archive's start to the string that is wrong, its length included
	Path   string // of the node concerned, "" for the root
	Reason string
}

// Error names the place and the reason.
func (e *FormatError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("nar: offset %d: %s", e.Offset, e.Reason)
	}
	return fmt.Sprintf("nar: offset %d, in %q: %s", e.Offset, e.Path, e.Reason)
}

// nameError says what is wrong with the name of a directory entry, "" if nothing is.
func nameError(name string) string {
	switch {
	case name == "":
		return "entry without a name"
	case len(name) > MaxName:
		return fmt.Sprintf("name of %d bytes, over the limit of %d", len(name), MaxName)
	case name == "." || name == "..":
		return fmt.Sprintf("name %q", name)
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return fmt.Sprintf("name %q holds a slash or NUL", name)
		}
	}
	return ""
}

// targetError says what is wrong with a symlink's target, "" if nothing is.
func targetError(target string) string {
	switch {
	case target == "":
		return "symlink without a target"
	case len(target) > MaxTarget:
		return fmt.Sprintf("symlink target of %d bytes, over the limit of %d", len(target), MaxTarget)
	}
	for i := range len(target) {
		if target[i] == 0 {
			return fmt.Sprintf("symlink target %q holds NUL", target)
		}
	}
	return ""
}

// padding is the number of zero bytes that follow n bytes of a string.
func padding(n int64) int64 { return -n & 7 }
