package nixproto

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"

	"github.com/voidnxlab/nixtrap/narinfo"
)

const (
	wordSize  = 8
	firstStep = 64 << 10
	maxString = 1 << 20 // bytes of one string: a log line, an error's text, a realisation
)

// encoder writes the primitives to a buffer. The first failure sticks in bufio.Writer and shows in flush.
type encoder struct{ w *bufio.Writer }

func newEncoder(w io.Writer) *encoder { return &encoder{bufio.NewWriter(w)} }

func (e *encoder) uint64(n uint64) {
	var word [wordSize]byte
	binary.LittleEndian.PutUint64(word[:], n)
	_, _ = e.w.Write(word[:])
}

func (e *encoder) string(s string) {
	var zeros [wordSize]byte
	e.uint64(uint64(len(s)))
	_, _ = e.w.WriteString(s)
	_, _ = e.w.Write(zeros[:padding(uint64(len(s)))])
}

func (e *encoder) strings(list []string) { listTo(e, list, e.string) }

func (e *encoder) bool(b bool) {
	var n uint64
	if b {
		n = 1
	}
	e.uint64(n)
}

func (e *encoder) paths(list []narinfo.StorePath) {
	listTo(e, list, func(p narinfo.StorePath) { e.string(string(p)) })
}

func listTo[T any](e *encoder, list []T, item func(T)) {
	e.uint64(uint64(len(list)))
	for _, v := range list {
		item(v)
	}
}

// mapTo writes a map in the order of its keys.
func mapTo[V any](e *encoder, m map[string]V, value func(V)) {
	e.uint64(uint64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		e.string(k)
		value(m[k])
	}
}

// copyLarge copies in steps that pass the encoder's own small buffer by.
func copyLarge(e *encoder, r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{e.w}, r, make([]byte, 64<<10))
	return err
}

func (e *encoder) flush() error { return e.w.Flush() }

// decoder reads the primitives. Its first failure sticks: after it, every method returns zero without reading.
type decoder struct {
	r      *bufio.Reader
	budget uint64 // bytes that the current message may still take: see limit
	err    error
}

func newDecoder(r io.Reader) *decoder { return &decoder{r: bufio.NewReader(r)} }

// limit begins a message of at most n bytes.
func (d *decoder) limit(n uint64) { d.budget = n }

func (d *decoder) uint64() uint64 {
	var word [wordSize]byte
	if !d.spend(wordSize) || !d.full(word[:]) {
		return 0
	}
	return binary.LittleEndian.Uint64(word[:])
}

// int64 reads a number that both sides keep in a signed integer, and that makes no sense below zero.
func (d *decoder) int64() int64 {
	n := d.uint64()
	if n > math.MaxInt64 {
		d.fail("number %d is too large", n)
		return 0
	}
	return int64(n)
}

func (d *decoder) bool() bool {
	n := d.uint64()
	if n > 1 {
		d.fail("%d is no boolean", n)
	}
	return n == 1
}

// count reads the length of a list, each of whose items takes at least one word.
func (d *decoder) count() uint64 {
	n := d.uint64()
	if n > d.budget/wordSize {
		d.fail("list of %d items is longer than the limit", n)
		return 0
	}
	return n
}

func (d *decoder) string() string { return d.text(d.uint64(), maxString) }

// text reads what follows a string's length n.
func (d *decoder) text(n, most uint64) string {
	if n > most {
		d.fail("string of %d bytes is longer than %d", n, most)
		return ""
	}
	padded := n + padding(n)
	if !d.spend(padded) {
		return ""
	}
	text := d.bytes(padded)
	if d.err != nil {
		return ""
	}
	if !allZero(text[n:]) {
		d.fail("string's padding is not zero")
		return ""
	}
	return string(text[:n])
}

// longString is bounded by the message's limit alone.
func (d *decoder) longString() string { return d.text(d.uint64(), d.budget) }

// bytes reads n bytes, and takes memory for them as they arrive.
func (d *decoder) bytes(n uint64) []byte {
	var all []byte
	for n > 0 && d.err == nil {
		step := min(n, max(firstStep, uint64(len(all))))
		all = slices.Grow(all, int(step))[:uint64(len(all))+step]
		d.full(all[uint64(len(all))-step:])
		n -= step
	}
	return all
}

func (d *decoder) strings() []string { return listOf(d, d.string) }

// listOf reads a list. It grows with what has arrived, never with what was announced.
func listOf[T any](d *decoder, item func() T) []T {
	var list []T
	for range d.count() {
		v := item()
		if d.err != nil {
			return nil
		}
		list = append(list, v)
	}
	return list
}

// mapOf reads a map, whose keys differ.
func mapOf[V any](d *decoder, value func() V) map[string]V {
	m := make(map[string]V)
	for range d.count() {
		key := d.string()
		v := value()
		if _, twice := m[key]; twice {
			d.fail("key %q twice", key)
		}
		if d.err != nil {
			return nil
		}
		m[key] = v
	}
	return m
}

func (d *decoder) spend(n uint64) bool {
	if d.err != nil {
		return false
	}
	if n > d.budget {
		d.fail("message is longer than the limit")
		return false
	}
	d.budget -= n
	return true
}

func (d *decoder) full(p []byte) bool {
	_, err := io.ReadFull(d.r, p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	d.err = err
	return err == nil
}

// fail records a breach of the protocol.
func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
	}
}

// padding returns how many zero bytes follow n bytes.
func padding(n uint64) uint64 { return -n % wordSize }

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
