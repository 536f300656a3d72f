package machines

import (
	"fmt"
	"strings"
)

// Error is one fault in a list of machines.
type Error struct {
	// File is the file's name, or what the text was called.
	File string
	// Line counts from 1.
	Line int
	// Column is that of Nix's form, from 1; 0 if the fault is no single column's.
	Column int
	// Key is TOML's; empty in Nix's form.
	Key string
	// Problem says what is wrong.
	Problem string
	// Fix says what to do about it.
	Fix string
}

var columnNames = [...]string{
	"", "store URI", "systems", "SSH identity file", "jobs", "speed factor", "features", "mandatory features", "host key",
}

// Error returns "machines: FILE:LINE: column N (ITS NAME): PROBLEM: FIX".
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "machines: %s:%d: ", e.File, e.Line)
	if e.Column > 0 {
		fmt.Fprintf(&b, "column %d (%s): ", e.Column, columnNames[e.Column])
	}
	if e.Key != "" {
		fmt.Fprintf(&b, "%s: ", e.Key)
	}
	b.WriteString(e.Problem)
	if e.Fix != "" {
		b.WriteString(": " + e.Fix)
	}
	return b.String()
}

// fault is a problem with its fix, before it is known where.
type fault struct{ problem, fix string }

func (f *fault) at(file string, line, column int) *Error {
	return &Error{File: file, Line: line, Column: column, Problem: f.problem, Fix: f.fix}
}
