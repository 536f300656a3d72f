package nar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sort"
	"strings"
)

// Layout is an archive's table of contents: every node with its place in the archive.
// It takes 48 bytes a node, and the names and targets. It never changes and is safe for concurrent use.
// Make one with [ScanLayout] or [ReadLayout].
type Layout struct {
	nodes []node // in archive order; 0 is the root
	size  int64
	mem   int64
}

// node is one entry of a Layout. Its text is its own name and, for a symlink, its target behind it.
type node struct {
	start      int64 // offset of the node's lead: the framing from the end of what precedes it up to its content
	size       int64 // of a regular file
	text       string
	parent     int32
	end        int32 // index after the last node below this one
	nameLen    uint8
	typ        Type
	executable bool
}

const nodeSize = 48 // bytes, where pointers have 64 bits

func (n *node) name() string   { return n.text[:n.nameLen] }
func (n *node) target() string { return n.text[n.nameLen:] }

// Fixed strings as they stand in an archive.
var (
	magic       = frame("nix-archive-1")
	entryOpen   = frame("entry", "(", "name")
	entryNode   = frame("node")
	close1      = frame(")")
	regular     = frame("(", "type", "regular", "contents")
	executable  = frame("(", "type", "regular", "executable", "", "contents")
	directory   = frame("(", "type", "directory")
	symlink     = frame("(", "type", "symlink", "target")
	zeroPadding [8]byte
)

// frame encodes strings one after the other.
func frame(words ...string) []byte {
	var b []byte
	for _, w := range words {
		b = appendString(b, w)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = appendLength(b, int64(len(s)))
	b = append(b, s...)
	return append(b, zeroPadding[:padding(int64(len(s)))]...)
}

func appendLength(b []byte, n int64) []byte { return binary.LittleEndian.AppendUint64(b, uint64(n)) }

func stringSize(n int) int64 { return 8 + int64(n) + padding(int64(n)) }

// appendLead appends the framing before node i's content or children.
func (l *Layout) appendLead(b []byte, i int) []byte {
	n := &l.nodes[i]
	if i == 0 {
		b = append(b, magic...)
	} else {
		b = append(b, entryOpen...)
		b = appendString(b, n.name())
		b = append(b, entryNode...)
	}
	switch n.typ {
	case TypeDirectory:
		return append(b, directory...)
	case TypeSymlink:
		return appendString(append(b, symlink...), n.target())
	case TypeRegular:
		if n.executable {
			b = append(b, executable...)
		} else {
			b = append(b, regular...)
		}
		return appendLength(b, n.size)
	}
	panic("nar: internal error: node without a type")
}

func (n *node) leadSize(root bool) int64 {
	size := int64(len(entryOpen)+len(entryNode)) + stringSize(int(n.nameLen))
	if root {
		size = int64(len(magic))
	}
	switch {
	case n.typ == TypeDirectory:
		return size + int64(len(directory))
	case n.typ == TypeSymlink:
		return size + int64(len(symlink)) + stringSize(len(n.target()))
	case n.executable:
		return size + int64(len(executable)) + 8
	}
	return size + int64(len(regular)) + 8
}

// appendClosings appends what follows node i's content up to the next node's lead or the archive's end.
func (l *Layout) appendClosings(b []byte, i int) []byte {
	if n := &l.nodes[i]; n.typ == TypeRegular {
		b = append(b, zeroPadding[:padding(n.size)]...)
	}
	for j := i; int(l.nodes[j].end) == i+1; j = int(l.nodes[j].parent) {
		b = append(b, close1...)
		if j == 0 {
			break
		}
		b = append(b, close1...)
	}
	return b
}

func (l *Layout) contentOffset(i int) int64 {
	n := &l.nodes[i]
	return n.start + n.leadSize(i == 0)
}

// Size returns the length of the whole archive in bytes.
func (l *Layout) Size() int64 { return l.size }

// Len returns the number of nodes.
func (l *Layout) Len() int { return len(l.nodes) }

// MemSize returns roughly how many bytes the layout occupies.
func (l *Layout) MemSize() int64 { return l.mem }

// Equal reports whether two layouts are of archives that differ at most in the content of files.
func (l *Layout) Equal(other *Layout) bool { return slices.Equal(l.nodes, other.nodes) }

// Entry returns node i in archive order; 0 is the root. It panics if i is out of range.
// It builds the node's path: use [Layout.Lookup] and [Layout.Children] to walk.
func (l *Layout) Entry(i int) Header {
	n := &l.nodes[i]
	h := Header{Path: l.path(i), Type: n.typ, Executable: n.executable, Size: n.size}
	switch n.typ {
	case TypeRegular:
		h.Offset = l.contentOffset(i)
	case TypeSymlink:
		h.Target = n.target()
	}
	return h
}

func (l *Layout) path(i int) string { return string(l.AppendPath(make([]byte, 0, 128), i)) }

// AppendPath appends node i's path, which is what Entry has as Path.
func (l *Layout) AppendPath(b []byte, i int) []byte {
	if i == 0 {
		return b
	}
	n := &l.nodes[i]
	if n.parent != 0 {
		b = append(l.AppendPath(b, int(n.parent)), '/')
	}
	return append(b, n.name()...)
}

// Name returns the last component of node i's path, "" for the root.
func (l *Layout) Name(i int) string { return l.nodes[i].name() }

// Parent returns the index of the directory that holds node i; the root's is 0.
func (l *Layout) Parent(i int) int { return int(l.nodes[i].parent) }

// Lookup finds a node by its relative, slash-separated path; "" is the root.
// Symlinks are not followed.
// It searches each directory on the way in O(depth log nodes).
func (l *Layout) Lookup(path string) (i int, ok bool) {
	if path == "" {
		return 0, true
	}
	for name := range strings.SplitSeq(path, "/") {
		if i, ok = l.child(i, name); !ok {
			return 0, false
		}
	}
	return i, true
}

func (l *Layout) child(dir int, name string) (int, bool) {
	lo, hi := dir+1, int(l.nodes[dir].end) // each is where an entry begins, or the last one ends
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		for int(l.nodes[mid].parent) != dir {
			mid = int(l.nodes[mid].parent)
		}
		switch strings.Compare(l.nodes[mid].name(), name) {
		case 0:
			return mid, true
		case -1:
			lo = int(l.nodes[mid].end)
		default:
			hi = mid
		}
	}
	return 0, false
}

// Children yields the indexes of a directory's entries in order; a node that is no directory has none.
func (l *Layout) Children(i int) iter.Seq[int] {
	return func(yield func(int) bool) {
		end := l.nodes[i].end
		for c := int32(i) + 1; c < end; c = l.nodes[c].end {
			if !yield(int(c)) {
				return
			}
		}
	}
}

// Segment is one run of an archive's bytes: framing, or a part of one file's content.
type Segment struct {
	Bytes  []byte // of framing, valid until the iteration's next step; nil for file content
	File   int    // index of the regular file, where Bytes is nil
	Offset int64  // within the file's content
	Length int64  // in bytes, of either kind; never 0
}

// Segments yields the archive's bytes from off to off+n in order. It finds off in O(log nodes).
// It panics if the range does not lie within the archive.
func (l *Layout) Segments(off, n int64) iter.Seq[Segment] {
	if off < 0 || n < 0 || off > l.size-n {
		panic(fmt.Sprintf("nar: bytes %d to %d of an archive of %d", off, off+n, l.size))
	}
	return func(yield func(Segment) bool) {
		if n == 0 {
			return
		}
		c := cut{skip: off, left: n, yield: yield}
		i := sort.Search(len(l.nodes), func(i int) bool { return l.nodes[i].start > off }) - 1
		c.skip -= l.nodes[i].start
		var frames []byte
		for ; i < len(l.nodes); i++ {
			frames = l.appendLead(frames, i)
			if node := &l.nodes[i]; node.typ == TypeRegular && node.size > 0 {
				if !c.bytes(frames) || !c.file(i, node.size) {
					return
				}
				frames = frames[:0]
			}
			if frames = l.appendClosings(frames, i); len(frames) < 4096 {
				continue
			}
			if !c.bytes(frames) {
				return
			}
			frames = frames[:0]
		}
		c.bytes(frames)
	}
}

// cut yields the part of a sequence of segments that remains after skip bytes, left bytes long.
type cut struct {
	skip, left int64
	yield      func(Segment) bool
}

// window returns the part of the next size bytes that is wanted.
func (c *cut) window(size int64) (from, length int64) {
	from = min(c.skip, size)
	length = min(size-from, c.left)
	c.skip -= from
	c.left -= length
	return from, length
}

// bytes and file report whether to go on.
func (c *cut) bytes(b []byte) bool {
	from, length := c.window(int64(len(b)))
	if length > 0 && !c.yield(Segment{Bytes: b[from : from+length], Length: length}) {
		return false
	}
	return c.left > 0
}

func (c *cut) file(i int, size int64) bool {
	from, length := c.window(size)
	if length > 0 && !c.yield(Segment{File: i, Offset: from, Length: length}) {
		return false
	}
	return c.left > 0
}

// builder makes a layout node by node, in archive order.
type builder struct {
	l     Layout
	open  []int32 // directories that have not ended, outermost first
	next  int64   // offset of the next node's lead
	texts int     // bytes of all nodes' texts
}

// add appends a node below the innermost open directory. A directory is open until end.
func (b *builder) add(name string, h *Header) int {
	i := len(b.l.nodes)
	n := node{
		start: b.next, size: h.Size, text: name + h.Target, nameLen: uint8(len(name)),
		typ: h.Type, executable: h.Executable, end: int32(i) + 1,
	}
	if len(b.open) > 0 {
		n.parent = b.open[len(b.open)-1]
	}
	b.next += n.leadSize(i == 0)
	b.l.nodes = append(b.l.nodes, n)
	b.texts += len(n.text)
	if h.Type == TypeDirectory {
		b.open = append(b.open, int32(i))
		return i
	}
	if h.Type == TypeRegular {
		b.next += h.Size + padding(h.Size)
	}
	b.close(i)
	return i
}

// end closes the innermost open directory.
func (b *builder) end() {
	i := b.open[len(b.open)-1]
	b.open = b.open[:len(b.open)-1]
	b.l.nodes[i].end = int32(len(b.l.nodes))
	b.close(int(i))
}

func (b *builder) close(i int) {
	b.next += int64(len(close1))
	if i != 0 {
		b.next += int64(len(close1))
	}
}

// layout returns a copy without spare capacity, in which nothing keeps the strings alive that nodes were made from.
func (b *builder) layout() *Layout {
	texts := make([]byte, 0, b.texts)
	for i := range b.l.nodes {
		texts = append(texts, b.l.nodes[i].text...)
	}
	all := string(texts)
	nodes := make([]node, len(b.l.nodes))
	for i, n := range b.l.nodes {
		n.text, all = all[:len(n.text)], all[len(n.text):]
		nodes[i] = n
	}
	return &Layout{nodes: nodes, size: b.next, mem: int64(len(nodes))*nodeSize + int64(b.texts)}
}

// ReadLayout makes the layout of the archive that r yields to its end. Contents are skipped.
func ReadLayout(r io.Reader) (*Layout, error) {
	var b builder
	nr := NewReader(r)
	for {
		h, err := nr.Next()
		if errors.Is(err, io.EOF) {
			for len(b.open) > 0 {
				b.end()
			}
			return b.layout(), nil
		}
		if err != nil {
			return nil, err
		}
		depth := 0
		if h.Path != "" {
			depth = strings.Count(h.Path, "/") + 1
		}
		for len(b.open) > depth {
			b.end()
		}
		name := h.Path[strings.LastIndexByte(h.Path, '/')+1:]
		b.add(name, h)
	}
}
