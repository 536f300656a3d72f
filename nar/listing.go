package nar

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// ErrNotUTF8 reports that a listing cannot be written, for JSON has no way to spell a name that is not UTF-8.
// Nix 2.26 and 2.34 refuse to write such a listing too; 2.8 writes one that is not JSON.
var ErrNotUTF8 = errors.New("nar: name or target is not UTF-8")

// AppendListing appends the archive's listing in the form of a binary cache's .ls files:
//
//	{"version":1,"root":{"type":"directory","entries":{NAME:{…},…}}}
//
// A file has "type":"regular", "size", "executable":true if it is, and "narOffset", where its content begins;
// a symlink has "type":"symlink" and "target".
func (l *Layout) AppendListing(b []byte) ([]byte, error) {
	b = append(b, `{"version":1,"root":`...)
	b, err := l.appendNode(b, 0)
	if err != nil {
		return nil, err
	}
	return append(b, '}'), nil
}

func (l *Layout) appendNode(b []byte, i int) ([]byte, error) {
	n := &l.nodes[i]
	if !utf8.ValidString(n.text) {
		return nil, fmt.Errorf("%w: %q", ErrNotUTF8, l.path(i))
	}
	switch n.typ {
	case TypeSymlink:
		b = append(b, `{"type":"symlink","target":`...)
		b = appendJSON(b, n.target())
	case TypeRegular:
		b = append(b, `{"type":"regular","size":`...)
		b = strconv.AppendInt(b, n.size, 10)
		if n.executable {
			b = append(b, `,"executable":true`...)
		}
		b = append(b, `,"narOffset":`...)
		b = strconv.AppendInt(b, l.contentOffset(i), 10)
	case TypeDirectory:
		b = append(b, `{"type":"directory","entries":{`...)
		for c := range l.Children(i) {
			if c != i+1 {
				b = append(b, ',')
			}
			b = append(appendJSON(b, l.nodes[c].name()), ':')
			var err error
			if b, err = l.appendNode(b, c); err != nil {
				return nil, err
			}
		}
		b = append(b, '}')
	}
	return append(b, '}'), nil
}

func appendJSON(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil {
		panic("nar: internal error: " + err.Error()) // no string fails to marshal
	}
	return append(b, quoted...)
}
