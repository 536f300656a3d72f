package machines

import "strings"

// keyLines says on which line each key stands, for the TOML decoder doesn't.
// It reads only as much of the syntax as tells a key from the inside of a text; what it misses is told by its table.
type keyLines struct {
	top    map[string]int
	tables []tableLines
}

type tableLines struct {
	header int
	keys   map[string]int
}

func findKeys(text string) keyLines {
	k := keyLines{top: make(map[string]int)}
	current := k.top
	inside := "" // the quotes that end the text of many lines that this line begins in
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		started := inside != ""
		inside = quotesAfter(line, inside)
		line = strings.TrimSpace(line)
		if started || line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '[' {
			name := strings.TrimSpace(strings.Trim(before(line, "#"), "[] \t"))
			switch {
			case strings.HasPrefix(line, "[[") && name == "machine":
				current = make(map[string]int)
				k.tables = append(k.tables, tableLines{n, current})
			case strings.HasPrefix(name, "machine."): // a table inside a machine: an unknown key of it
				remember(current, strings.TrimPrefix(name, "machine."), n)
			default:
				remember(k.top, name, n)
			}
			continue
		}
		if key, _, ok := strings.Cut(line, "="); ok {
			remember(current, key, n)
		}
	}
	return k
}

// quotesAfter returns which triple quotes are open after a line, given those before it.
func quotesAfter(line, open string) string {
	for {
		if open != "" {
			_, rest, ok := strings.Cut(line, open)
			if !ok {
				return open
			}
			line = rest
		}
		double, single := strings.Index(line, `"""`), strings.Index(line, `'''`)
		switch {
		case double < 0 && single < 0:
			return ""
		case single < 0 || (double >= 0 && double < single):
			open, line = `"""`, line[double+3:]
		default:
			open, line = `'''`, line[single+3:]
		}
	}
}

// remember keeps the first line of the key, and of a dotted key's first part.
func remember(keys map[string]int, key string, n int) {
	key = strings.Trim(strings.TrimSpace(before(key, ".")), `"'`)
	if _, ok := keys[key]; !ok {
		keys[key] = n
	}
}

func before(s, separator string) string {
	s, _, _ = strings.Cut(s, separator)
	return s
}

// error makes an error of a table's key, or of a key outside tables for table -1.
func (k *keyLines) error(file string, table int, key, problem, fix string) *Error {
	e := &Error{File: file, Line: 1, Key: key, Problem: problem, Fix: fix}
	keys := k.top
	if table >= 0 && table < len(k.tables) {
		e.Line, keys = k.tables[table].header, k.tables[table].keys
	}
	if n, ok := keys[key]; ok {
		e.Line = n
	}
	return e
}
