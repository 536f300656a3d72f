package nar

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Reader reads an archive entry by entry, in the order in which they stand there: a directory before its entries.
// [Reader.Next] advances to the next node; then the Reader is an io.Reader of that node's content,
// which is empty unless it is a regular file.
//
// Errors are final: io.ErrUnexpectedEOF where the archive is cut off, a [*FormatError] where it is malformed,
// the underlying reader's own otherwise. A Reader is not safe for concurrent use.
type Reader struct {
	r      *bufio.Reader
	offset int64 // of the next byte
	at     int64 // of the latest string
	err    error // sticky

	started bool
	dirs    []openDir
	left    int64 // bytes of the current file's content not yet read
	inFile  bool  // the current node is a regular file whose end has not been read
	file    string
	size    int64 // of the current file
	word    [8 + MaxTarget + 8]byte
}

// openDir is a directory whose end has not been read.
type openDir struct {
	path string
	last string // name of the latest entry
}

// NewReader returns a Reader of the archive that r yields to its end.
// It reads ahead, and takes bytes behind the archive for an error.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 32<<10)}
}

// Next advances to the next node, skipping what was not read of the current one.
// It returns io.EOF when the archive has ended and nothing follows it.
// The caller owns the header.
func (r *Reader) Next() (*Header, error) {
	if r.err != nil {
		return nil, r.err
	}
	h, err := r.next()
	if err != nil {
		r.err = err
		return nil, err
	}
	return h, nil
}

func (r *Reader) next() (*Header, error) {
	if !r.started {
		r.started = true
		if err := r.expect("nix-archive-1", ""); err != nil {
			return nil, err
		}
		return r.node("")
	}
	if r.inFile {
		if err := r.endFile(); err != nil {
			return nil, err
		}
	}
	for len(r.dirs) > 0 {
		dir := &r.dirs[len(r.dirs)-1]
		word, err := r.string(maxWord, dir.path)
		if err != nil {
			return nil, err
		}
		switch word {
		case "entry":
			return r.entry(dir)
		case ")":
			path := dir.path
			r.dirs = r.dirs[:len(r.dirs)-1]
			if err := r.endEntry(path); err != nil {
				return nil, err
			}
		default:
			return nil, r.malformed(dir.path, "%q where an entry or a directory's end belongs", word)
		}
	}
	return nil, r.endOfArchive()
}

// maxWord is the length of the longest keyword of the format, the archive's magic.
const maxWord = 32

func (r *Reader) entry(dir *openDir) (*Header, error) {
	if err := r.expect("(", dir.path); err != nil {
		return nil, err
	}
	if err := r.expect("name", dir.path); err != nil {
		return nil, err
	}
	name, err := r.string(MaxName, dir.path)
	if err != nil {
		return nil, err
	}
	if reason := nameError(name); reason != "" {
		return nil, r.malformed(dir.path, "%s", reason)
	}
	if dir.last != "" && name <= dir.last {
		return nil, r.malformed(dir.path, "entry %q after %q", name, dir.last)
	}
	dir.last = name
	if err := r.expect("node", dir.path); err != nil {
		return nil, err
	}
	return r.node(join(dir.path, name))
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func (r *Reader) node(path string) (*Header, error) {
	if len(r.dirs) >= MaxDepth {
		r.at = r.offset
		return nil, r.malformed(path, "%s", tooDeep)
	}
	if err := r.expect("(", path); err != nil {
		return nil, err
	}
	if err := r.expect("type", path); err != nil {
		return nil, err
	}
	word, err := r.string(maxWord, path)
	if err != nil {
		return nil, err
	}
	h := &Header{Path: path}
	switch word {
	case "regular":
		return h, r.regular(h)
	case "symlink":
		return h, r.symlink(h)
	case "directory":
		h.Type = TypeDirectory
		r.dirs = append(r.dirs, openDir{path: path})
		return h, nil
	}
	return nil, r.malformed(path, "unknown node type %q", word)
}

func (r *Reader) regular(h *Header) error {
	h.Type = TypeRegular
	word, err := r.string(maxWord, h.Path)
	if err != nil {
		return err
	}
	if word == "executable" {
		h.Executable = true
		if err := r.expect("", h.Path); err != nil {
			return err
		}
		if word, err = r.string(maxWord, h.Path); err != nil {
			return err
		}
	}
	if word != "contents" {
		return r.malformed(h.Path, "%q where a file's contents belong", word)
	}
	size, err := r.length()
	if err != nil {
		return err
	}
	if size > uint64(math.MaxInt64-r.offset-64) {
		return r.malformed(h.Path, "file of %d bytes", size)
	}
	h.Size, h.Offset = int64(size), r.offset
	r.file, r.size, r.left, r.inFile = h.Path, h.Size, h.Size, true
	return nil
}

func (r *Reader) symlink(h *Header) error {
	h.Type = TypeSymlink
	if err := r.expect("target", h.Path); err != nil {
		return err
	}
	target, err := r.string(MaxTarget, h.Path)
	if err != nil {
		return err
	}
	if reason := targetError(target); reason != "" {
		return r.malformed(h.Path, "%s", reason)
	}
	h.Target = target
	if err := r.expect(")", h.Path); err != nil {
		return err
	}
	return r.endEntry(h.Path)
}

// Read reads from the current node's content. At its end it returns io.EOF.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.r.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	r.offset += int64(n)
	if err != nil {
		r.err = truncated(err)
	}
	return n, r.err
}

// endFile reads what is left of the current file, its padding and the node's end.
func (r *Reader) endFile() error {
	n, err := io.CopyN(io.Discard, r.r, r.left)
	r.offset += n
	if err != nil {
		return truncated(err)
	}
	r.left, r.inFile = 0, false
	if err := r.padding(padding(r.size), r.file); err != nil {
		return err
	}
	if err := r.expect(")", r.file); err != nil {
		return err
	}
	return r.endEntry(r.file)
}

// endEntry reads the end of the directory entry that holds the node at path; the root is in none.
func (r *Reader) endEntry(path string) error {
	if len(r.dirs) == 0 {
		return nil
	}
	return r.expect(")", path)
}

func (r *Reader) endOfArchive() error {
	r.at = r.offset
	switch _, err := r.r.ReadByte(); {
	case err == nil:
		return r.malformed("", "bytes behind the archive's end")
	case errors.Is(err, io.EOF):
		return io.EOF
	default:
		return err
	}
}

func (r *Reader) expect(want, path string) error {
	got, err := r.string(maxWord, path)
	if err != nil {
		return err
	}
	if got != want {
		return r.malformed(path, "%q where %q belongs", got, want)
	}
	return nil
}

// string reads a string of at most limit bytes with its padding.
func (r *Reader) string(limit int, path string) (string, error) {
	size, err := r.length()
	if err != nil {
		return "", err
	}
	if size > uint64(limit) {
		return "", r.malformed(path, "string of %d bytes, where the limit is %d", size, limit)
	}
	b := r.word[:size]
	if err := r.full(b); err != nil {
		return "", err
	}
	if err := r.padding(padding(int64(size)), path); err != nil {
		return "", err
	}
	return keyword(b), nil
}

// keyword returns b as a string, without an allocation where it is one of the format's own words.
func keyword(b []byte) string {
	switch string(b) {
	case "(":
		return "("
	case ")":
		return ")"
	case "":
		return ""
	case "type":
		return "type"
	case "entry":
		return "entry"
	case "name":
		return "name"
	case "node":
		return "node"
	case "regular":
		return "regular"
	case "contents":
		return "contents"
	case "executable":
		return "executable"
	case "directory":
		return "directory"
	case "symlink":
		return "symlink"
	case "target":
		return "target"
	}
	return string(b)
}

func (r *Reader) length() (uint64, error) {
	r.at = r.offset
	b := r.word[:8]
	if err := r.full(b); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (r *Reader) padding(n int64, path string) error {
	var b [8]byte
	if err := r.full(b[:n]); err != nil {
		return err
	}
	if b != zeroPadding {
		return r.malformed(path, "padding that is not zero")
	}
	return nil
}

func (r *Reader) full(b []byte) error {
	n, err := io.ReadFull(r.r, b)
	r.offset += int64(n)
	if err != nil {
		return truncated(err)
	}
	return nil
}

// malformed is about the latest string.
func (r *Reader) malformed(path, format string, args ...any) error {
	return &FormatError{r.at, path, fmt.Sprintf(format, args...)}
}

// truncated turns an end of input in the middle of an archive into io.ErrUnexpectedEOF.
func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
