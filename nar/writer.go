package nar

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Writer writes an archive node by node: a header for each, in archive order, then a regular file's content.
// Its output is canonical; what would not be is refused. Errors are final.
// A Writer is not safe for concurrent use.
type Writer struct {
	w       *bufio.Writer
	err     error // sticky
	scratch []byte

	started bool
	dirs    []openDir
	inFile  bool
	left    int64 // bytes of the current file's content that are still owed
	pad     int64
	root    bool // the current file is the root
}

var (
	errNoRoot   = errors.New("nar: closed before the root was written")
	errTooLong  = errors.New("nar: more content than the header's size")
	errTooShort = errors.New("nar: less content than the header's size")
	errClosed   = errors.New("nar: writer is closed")
)

// NewWriter returns a Writer to w. The caller closes it, and then w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: bufio.NewWriterSize(w, 64<<10)}
}

// WriteHeader begins a node. The first is the root, with the path "".
// Every other's directory must have been written before it, and its name come after its predecessors'.
// Offset is ignored, and so are fields that the type does not have.
func (w *Writer) WriteHeader(h *Header) error {
	if w.err == nil {
		w.err = w.writeHeader(h)
	}
	return w.err
}

func (w *Writer) writeHeader(h *Header) error {
	if err := w.endFile(); err != nil {
		return err
	}
	b := w.scratch[:0]
	if !w.started {
		if h.Path != "" {
			return fmt.Errorf("nar: %q comes before the root", h.Path)
		}
		w.started = true
		b = append(b, magic...)
	} else {
		var err error
		if b, err = w.enter(b, h.Path); err != nil {
			return err
		}
	}
	b, err := w.node(b, h)
	if err != nil {
		return err
	}
	w.scratch = b
	_, err = w.w.Write(b)
	return err
}

// enter closes the directories that path is not below, and opens the entry.
func (w *Writer) enter(b []byte, path string) ([]byte, error) {
	parent, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	if path != "" && path[0] == '/' {
		return b, fmt.Errorf("nar: %q is not a relative path", path)
	}
	if reason := nameError(name); reason != "" {
		return b, fmt.Errorf("nar: %q: %s", path, reason)
	}
	for len(w.dirs) > 0 && w.dirs[len(w.dirs)-1].path != parent {
		b = w.leave(b)
	}
	if len(w.dirs) == 0 {
		return b, fmt.Errorf("nar: %q is not below an open directory", path)
	}
	dir := &w.dirs[len(w.dirs)-1]
	if dir.last != "" && name <= dir.last {
		return b, fmt.Errorf("nar: %q comes after %q", path, join(parent, dir.last))
	}
	dir.last = name
	b = append(b, entryOpen...)
	b = appendString(b, name)
	return append(b, entryNode...), nil
}

// leave closes the innermost directory, and its entry if it is not the root.
func (w *Writer) leave(b []byte) []byte {
	w.dirs = w.dirs[:len(w.dirs)-1]
	b = append(b, close1...)
	if len(w.dirs) > 0 {
		b = append(b, close1...)
	}
	return b
}

func (w *Writer) node(b []byte, h *Header) ([]byte, error) {
	if len(w.dirs) >= MaxDepth {
		return b, fmt.Errorf("nar: %q: %s", h.Path, tooDeep)
	}
	switch h.Type {
	case TypeRegular:
		if h.Size < 0 {
			return b, fmt.Errorf("nar: %q: size %d", h.Path, h.Size)
		}
		if h.Executable {
			b = append(b, executable...)
		} else {
			b = append(b, regular...)
		}
		b = appendLength(b, h.Size)
		w.inFile, w.left, w.pad, w.root = true, h.Size, padding(h.Size), h.Path == ""
		return b, nil
	case TypeSymlink:
		if reason := targetError(h.Target); reason != "" {
			return b, fmt.Errorf("nar: %q: %s", h.Path, reason)
		}
		b = appendString(append(b, symlink...), h.Target)
		b = append(b, close1...)
		if h.Path != "" {
			b = append(b, close1...)
		}
		return b, nil
	case TypeDirectory:
		w.dirs = append(w.dirs, openDir{path: h.Path})
		return append(b, directory...), nil
	}
	return b, fmt.Errorf("nar: %q: unknown node type %v", h.Path, h.Type)
}

// Write writes a part of the current regular file's content.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.left {
		w.err = errTooLong
		return 0, w.err
	}
	n, err := w.w.Write(p)
	w.left -= int64(n)
	w.err = err
	return n, err
}

// endFile closes the current regular file, if there is one.
func (w *Writer) endFile() error {
	if !w.inFile {
		return nil
	}
	if w.left > 0 {
		return errTooShort
	}
	w.inFile = false
	b := append(w.scratch[:0], zeroPadding[:w.pad]...)
	b = append(b, close1...)
	if !w.root {
		b = append(b, close1...)
	}
	w.scratch = b
	_, err := w.w.Write(b)
	return err
}

// Close ends the archive and flushes it. It does not close the underlying writer.
// An archive that is incomplete is an error. A second Close, or anything else after it, is an error too.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	if w.err = w.finish(); w.err != nil {
		return w.err
	}
	w.err = errClosed
	return nil
}

func (w *Writer) finish() error {
	if !w.started {
		return errNoRoot
	}
	if err := w.endFile(); err != nil {
		return err
	}
	b := w.scratch[:0]
	for len(w.dirs) > 0 {
		b = w.leave(b)
	}
	if _, err := w.w.Write(b); err != nil {
		return err
	}
	return w.w.Flush()
}
