package nar_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/nar"
)

// words encodes strings as an archive does.
func words(list ...string) string {
	var b []byte
	for _, w := range list {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(w)))
		b = append(b, w...)
		b = append(b, make([]byte, -len(w)&7)...)
	}
	return string(b)
}

const magic = "nix-archive-1"

func file(content string) string { return words("(", "type", "regular", "contents", content, ")") }

// directory takes names and nodes in turn.
func directory(entries ...string) string {
	b := words("(", "type", "directory")
	for i := 0; i < len(entries); i += 2 {
		b += words("entry", "(", "name", entries[i], "node") + entries[i+1] + words(")")
	}
	return b + words(")")
}

func symlink(target string) string { return words("(", "type", "symlink", "target", target, ")") }

func nested(depth int) string {
	node := file("deep")
	for range depth {
		node = directory("d", node)
	}
	return node
}

// length is a bare length, with nothing behind it.
func length(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }

// vectors are archives, most of them named as Nix names its own. A reason makes one invalid.
// nix234 says what Nix 2.34 does where it differs from us, which is only ever that it accepts more.
var vectors = []struct {
	name    string
	archive string
	reason  string
	nix234  bool
}{
	{name: "empty file", archive: words(magic) + file("")},
	{name: "file", archive: words(magic) + file("content")},
	{name: "executable", archive: words(magic, "(", "type", "regular", "executable", "", "contents", "x", ")")},
	{name: "symlink", archive: words(magic) + symlink("../x")},
	{name: "longest target", archive: words(magic) + symlink(strings.Repeat("t", 4095))},
	{name: "empty directory", archive: words(magic) + directory()},
	{name: "directory", archive: words(magic) + directory("a", file("1"), "b", symlink("a"), "c", directory())},
	{name: "order by component", archive: words(magic) + directory("foo", directory("b", file("")), "foo-a", file(""))},
	{name: "bytes that are not UTF-8", archive: words(magic) + directory("caf\xe9", file(""))},
	{name: "longest name", archive: words(magic) + directory(strings.Repeat("n", 255), file(""))},
	{name: "deepest", archive: words(magic) + nested(nar.MaxDepth-1)},

	{name: "too deep", archive: words(magic) + nested(nar.MaxDepth), reason: "nest more than"},
	{name: "dot", archive: words(magic) + directory(".", file("")), reason: `name "."`},
	{name: "dotdot", archive: words(magic) + directory("..", file("")), reason: `name ".."`},
	{name: "slash", archive: words(magic) + directory("a/b", file("")), reason: "slash or NUL"},
	{name: "nul character", archive: words(magic) + directory("a\x00b", file("")), reason: "slash or NUL"},
	{name: "empty name", archive: words(magic) + directory("", file("")), reason: "without a name"},
	{name: "name too long", archive: words(magic) + directory(strings.Repeat("n", 256), file("")), reason: "limit is 255"},
	{name: "wrong order", archive: words(magic) + directory("b", file(""), "a", file("")), reason: `"a" after "b"`},
	{name: "duplicate", archive: words(magic) + directory("a", file(""), "a", file("")), reason: `"a" after "a"`},
	{name: "file below a symlink's name",
		archive: words(magic) + directory("a", symlink("/tmp"), "a", directory("x", file(""))),
		reason:  `"a" after "a"`},
	{name: "target too long", archive: words(magic) + symlink(strings.Repeat("t", 4096)), reason: "limit is 4095"},
	{name: "empty target", archive: words(magic) + symlink(""), reason: "without a target"},
	{name: "nul in target", archive: words(magic) + symlink("a\x00b"), reason: "holds NUL"},
	{name: "padding not zero", archive: words(magic) + strings.Replace(file("xyz"), "xyz\x00", "xyz\x01", 1),
		reason: "padding"},
	{name: "trailing byte", archive: words(magic) + file("x") + "\x00", reason: "behind the archive", nix234: true},
	{name: "trailing word", archive: words(magic) + file("x") + words(")"), reason: "behind the archive", nix234: true},
	{name: "wrong magic", archive: words("nix-archive-2") + file("x"), reason: `"nix-archive-2"`},
	{name: "unknown type", archive: words(magic, "(", "type", "fifo", ")"), reason: `unknown node type "fifo"`},
	{name: "no type", archive: words(magic, "(", ")"), reason: `where "type" belongs`},
	{name: "executable with a value",
		archive: words(magic, "(", "type", "regular", "executable", "1", "contents", "", ")"),
		reason:  `where "" belongs`},
	{name: "executable behind contents",
		archive: words(magic, "(", "type", "regular", "contents", "x", "executable", "", ")"),
		reason:  `where ")" belongs`},
	{name: "no contents", archive: words(magic, "(", "type", "regular", ")"), reason: "contents belong"},
	{name: "two contents", archive: words(magic, "(", "type", "regular", "contents", "x", "contents", "y", ")"),
		reason: `where ")" belongs`},
	{name: "entry without node", archive: words(magic, "(", "type", "directory", "entry", "(", "name", "a", ")", ")"),
		reason: `where "node" belongs`},
	{name: "giant word", archive: words(magic) + length(1<<40), reason: "string of 1099511627776 bytes"},
	{name: "giant file", archive: words(magic, "(", "type", "regular", "contents") + length(1<<63), reason: "file of"},
	{name: "largest number", archive: words(magic, "(", "type", "regular", "contents") + length(1<<64-1),
		reason: "file of"},
}

// readAll reads an archive to its end, contents too.
func readAll(r io.Reader) error { return copyArchive(r, io.Discard) }

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			var again bytes.Buffer
			err := copyArchive(strings.NewReader(v.archive), &again)
			if v.reason == "" {
				require.NoError(t, err)
				require.Equal(t, v.archive, again.String(), "writing it anew")
				return
			}
			var malformed *nar.FormatError
			require.ErrorAs(t, err, &malformed)
			require.Contains(t, malformed.Reason, v.reason)
			require.LessOrEqual(t, malformed.Offset, int64(len(v.archive)))

			_, err = nar.ReadLayout(strings.NewReader(v.archive))
			require.Error(t, err)
			dir, err := os.OpenRoot(t.TempDir())
			require.NoError(t, err)
			defer dir.Close()
			require.Error(t, nar.Unpack(dir, "out", strings.NewReader(v.archive)))
			left, err := os.ReadDir(dir.Name())
			require.NoError(t, err)
			require.Empty(t, left, "what a refused archive leaves behind")
		})
	}
}

func TestNixAgreesAboutTheVectors(t *testing.T) {
	nix := realnix.Get(t, "2.34")
	dir := nix.TempDir(t)
	for i, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			out := filepath.Join(dir, string(rune('a'+i%26))+string(rune('a'+i/26)))
			cmd := nix.Command(t, "nix-store", "--restore", out)
			cmd.Stdin = strings.NewReader(v.archive)
			said, err := cmd.CombinedOutput()
			require.Equal(t, v.reason == "" || v.nix234, err == nil, "nix-store --restore: %s", said)
		})
	}
}

func TestTruncationAtEveryOffset(t *testing.T) {
	archive := words(magic) + directory("a", file("content"), "b", symlink("a"), "c", directory("d", file("")))
	for n := range len(archive) {
		require.ErrorIs(t, readAll(strings.NewReader(archive[:n])), io.ErrUnexpectedEOF, "cut after %d bytes", n)
	}
}

func TestManglingNeverGivesAnotherSpellingOfAnArchive(t *testing.T) {
	archive := []byte(words(magic) + directory("a", file("content"), "b", symlink("a"), "c", directory("d", file(""))))
	for i := range archive {
		for _, flip := range []byte{1, 2, 0x20, 0x80, 0xff} {
			mangled := bytes.Clone(archive)
			mangled[i] ^= flip
			var again bytes.Buffer
			if copyArchive(bytes.NewReader(mangled), &again) == nil {
				require.True(t, bytes.Equal(mangled, again.Bytes()), "byte %d xor %#x", i, flip)
			}
		}
	}
}

func TestReaderOverOddReaders(t *testing.T) {
	archive := words(magic) + directory("a", file(strings.Repeat("content", 9999)), "b", symlink("a"))
	require.NoError(t, readAll(iotest.OneByteReader(strings.NewReader(archive))))
	require.NoError(t, readAll(iotest.DataErrReader(strings.NewReader(archive))))
	broken := errors.New("broken")
	for _, n := range []int64{0, 5, 100, 1000} {
		r := io.MultiReader(io.LimitReader(strings.NewReader(archive), n), iotest.ErrReader(broken))
		require.ErrorIs(t, readAll(r), broken, "after %d bytes", n)
	}
	nr := nar.NewReader(strings.NewReader(words(magic) + file("the content of a file")))
	_, err := nr.Next()
	require.NoError(t, err)
	require.NoError(t, iotest.TestReader(nr, []byte("the content of a file")))
}

func TestReaderErrorsAreFinal(t *testing.T) {
	nr := nar.NewReader(strings.NewReader(words(magic) + directory(".", file(""))))
	_, err := nr.Next()
	require.NoError(t, err)
	_, first := nr.Next()
	require.Error(t, first)
	_, second := nr.Next()
	require.Equal(t, first, second)
	_, third := nr.Read(make([]byte, 1))
	require.Equal(t, first, third)
}

func TestWriterRefuses(t *testing.T) {
	dir := &nar.Header{Type: nar.TypeDirectory}
	reg := func(path string, size int64) *nar.Header {
		return &nar.Header{Path: path, Type: nar.TypeRegular, Size: size}
	}
	for name, headers := range map[string][]*nar.Header{
		"a node before the root":        {reg("a", 0)},
		"a wrong order":                 {dir, reg("b", 0), reg("a", 0)},
		"a name twice":                  {dir, reg("a", 0), reg("a", 0)},
		"a directory that is not there": {dir, reg("a/b", 0)},
		"a directory that has ended":    {dir, {Path: "a", Type: nar.TypeDirectory}, reg("b", 0), reg("a/c", 0)},
		"a node below a file":           {dir, reg("a", 0), reg("a/b", 0)},
		"a second root":                 {reg("", 0), reg("", 0)},
		"a path from the root on":       {dir, reg("/a", 0)},
		"dotdot":                        {dir, reg("..", 0)},
		"a negative size":               {reg("", -1)},
		"content that is missing":       {dir, reg("a", 1), reg("b", 0)},
		"no type":                       {{}},
		"a symlink to nothing":          {{Type: nar.TypeSymlink}},
	} {
		t.Run(name, func(t *testing.T) {
			w := nar.NewWriter(io.Discard)
			var err error
			for _, h := range headers {
				err = w.WriteHeader(h)
			}
			require.Error(t, err)
			require.Equal(t, err, w.Close(), "the error stays")
		})
	}
	t.Run("content that is too long", func(t *testing.T) {
		w := nar.NewWriter(io.Discard)
		require.NoError(t, w.WriteHeader(reg("", 1)))
		_, err := w.Write([]byte("ab"))
		require.Error(t, err)
	})
	t.Run("an incomplete archive", func(t *testing.T) {
		w := nar.NewWriter(io.Discard)
		require.NoError(t, w.WriteHeader(reg("", 1)))
		require.Error(t, w.Close())
		require.Error(t, nar.NewWriter(io.Discard).Close())
	})
}

func TestFormatErrorPointsAtTheString(t *testing.T) {
	for _, c := range []struct{ name, before, after string }{
		{"word", words(magic, "(", "type"), words("fifo", ")")},
		{"name", words(magic, "(", "type", "directory", "entry", "(", "name"), words(".", "node")},
		{"length", words(magic, "(", "type", "regular", "contents"), length(1 << 63)},
		{"string too long", words(magic, "("), length(1 << 40)},
		{"content's padding", words(magic, "(", "type", "regular", "contents"), length(1) + "x\x01\x00\x00\x00\x00\x00\x00"},
		{"trailing data", words(magic) + file("x"), "more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var malformed *nar.FormatError
			require.ErrorAs(t, readAll(strings.NewReader(c.before+c.after)), &malformed)
			require.Equal(t, int64(len(c.before)), malformed.Offset, malformed.Reason)
		})
	}
}
