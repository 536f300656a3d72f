// Package filestest checks that a bucketstore.Files keeps its promises, wherever its files lie.
//
// [TestFiles] is all there is to call.
package filestest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

// MiB is 2 to the 20 bytes.
const MiB = 1 << 20

// TestFiles checks everything that [bucketstore.Files] promises.
// open is called once a subtest and returns one that has no files; what it opens it closes with t.Cleanup.
// Up to 20 MiB are written at a time, some 300 MiB in all.
func TestFiles(t *testing.T, open func(t *testing.T) bucketstore.Files) {
	for _, c := range []struct {
		name string
		test func(*testing.T, bucketstore.Files)
	}{
		{"Absent", testAbsent},
		{"ImpossibleKeys", testImpossibleKeys},
		{"OddKeys", testOddKeys},
		{"PutAndOpen", testPutAndOpen},
		{"Seek", testSeek},
		{"Replace", testReplace},
		{"Remove", testRemove},
		{"Sizes", testSizes},
		{"Readers", testReaders},
		{"ContentFails", testContentFails},
		{"ContentFailsLate", testContentFailsLate},
		{"ContentOfAnotherSize", testContentOfAnotherSize},
		{"NotSeenBeforeItsEnd", testNotSeenBeforeItsEnd},
		{"List", testList},
		{"Cancelled", testCancelled},
		{"CancelledPut", testCancelledPut},
		{"ReplacedWhileRead", testReplacedWhileRead},
		{"RemovedWhileRead", testRemovedWhileRead},
		{"ConcurrentPuts", testConcurrentPuts},
		{"ConcurrentUse", testConcurrentUse},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// Content returns size bytes that don't compress, other ones for each seed.
func Content(seed uint64, size int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

func put(t *testing.T, f bucketstore.Files, key string, content []byte) bucketstore.State {
	t.Helper()
	state, err := f.Put(t.Context(), key, bytes.NewReader(content), int64(len(content)))
	require.NoError(t, err, "%q", key)
	require.Equal(t, int64(len(content)), state.Size, "%q", key)
	return state
}

// read opens a file and reads it whole.
func read(ctx context.Context, f bucketstore.Files, key string) ([]byte, bucketstore.State, error) {
	o, err := f.Open(ctx, key)
	if err != nil {
		return nil, bucketstore.State{}, err
	}
	content, readErr := io.ReadAll(o)
	state, stateErr := o.State()
	return content, state, errors.Join(readErr, stateErr, o.Close())
}

func requireContent(t *testing.T, f bucketstore.Files, key string, want []byte) {
	t.Helper()
	got, state, err := read(t.Context(), f, key)
	require.NoError(t, err, "%q", key)
	require.Equal(t, int64(len(want)), state.Size, "%q", key)
	require.True(t, bytes.Equal(want, got), "%q: %d bytes are other than the %d that were put", key, len(got), len(want))
}

func requireAbsent(t *testing.T, f bucketstore.Files, key string) {
	t.Helper()
	o, err := f.Open(t.Context(), key)
	require.ErrorIs(t, err, store.ErrNotFound, "%q", key)
	require.Nil(t, o, "%q", key)
}

func list(t *testing.T, f bucketstore.Files, prefix string) []string {
	t.Helper()
	keys := []string{}
	for e, err := range f.List(t.Context(), prefix) {
		require.NoError(t, err, "%q", prefix)
		keys = append(keys, e.Key)
	}
	slices.Sort(keys)
	return keys
}

func testAbsent(t *testing.T, f bucketstore.Files) {
	require.Empty(t, list(t, f, ""), "open returns one without files")
	requireAbsent(t, f, "nar/abc.nar.zst")
	put(t, f, "nar/abc.nar.zst", []byte("x"))
	for _, key := range []string{
		"nar", "nar/abc.nar.zs", "nar/abc.nar.zstd", "abc.nar.zst", "NAR/abc.nar.zst", "nar/abc.nar.zst/more", "other/abc.nar.zst",
	} {
		requireAbsent(t, f, key)
		require.NoError(t, f.Remove(t.Context(), key), "removing %q, which is not there", key)
	}
	requireContent(t, f, "nar/abc.nar.zst", []byte("x"))
}

func testImpossibleKeys(t *testing.T, f bucketstore.Files) {
	put(t, f, "a/b", []byte("x"))
	for _, key := range []string{
		"", ".", "..", "/", "/a/b", "a/b/", "a//b", "./a/b", "a/./b", "a/../a/b", "../a/b", "a/b\x00", "\xff",
		strings.Repeat("long/", 2000) + "x",
	} {
		requireAbsent(t, f, key)
		_, err := f.Put(t.Context(), key, strings.NewReader("y"), 1)
		require.Error(t, err, "put %q", key)
	}
	requireContent(t, f, "a/b", []byte("x"))
	require.Equal(t, []string{"a/b"}, list(t, f, ""))
}

func testOddKeys(t *testing.T, f bucketstore.Files) {
	keys := []string{
		"plus+plus", "plus plus", "plus%2Bplus", "per%cent", "quest?ion=a&b", "ha#sh", "semi;colon,comma", "co:lon!bang",
		"quo'te\"s", "(brackets)[]{}<>", "back\\slash", "ti~lde^`|", "dollar$at@star*", "ümläut/日本語", ".hidden", "a..b/...",
		"realisations/sha256:ba7816bf!out.doi", "log/0c6z-gcc+g++-13.2.0.drv", "nar/x.nar.zst?narHash=y", "-dash", "_under",
	}
	for i, key := range keys {
		put(t, f, key, Content(uint64(i), 100+i))
	}
	for i, key := range keys {
		requireContent(t, f, key, Content(uint64(i), 100+i))
		require.Equal(t, []string{key}, list(t, f, key), "prefix %q", key)
	}
	require.ElementsMatch(t, keys, list(t, f, ""))
	for _, key := range keys {
		require.NoError(t, f.Remove(t.Context(), key), "%q", key)
		requireAbsent(t, f, key)
	}
	require.Empty(t, list(t, f, ""))
}

func testPutAndOpen(t *testing.T, f bucketstore.Files) {
	content := Content(1, 3000)
	stored := put(t, f, "nar/a", content)
	require.NotNil(t, stored.Version)
	_, state, err := read(t.Context(), f, "nar/a")
	require.NoError(t, err)
	require.True(t, stored == state, "Put returned %v, Open has %v", stored, state)
	o, err := f.Open(t.Context(), "nar/a")
	require.NoError(t, err)
	again, err := o.State()
	require.NoError(t, err)
	require.True(t, again == state, "%v and %v are of one content", again, state)
	require.NoError(t, iotest.TestReader(o, content))
	require.NoError(t, o.Close())
	_, err = o.Read(make([]byte, 1))
	require.Error(t, err, "a read of what is closed")
	require.NotErrorIs(t, err, io.EOF)
}

func testSeek(t *testing.T, f bucketstore.Files) {
	content := Content(2, 3*MiB)
	put(t, f, "a", content)
	o, err := f.Open(t.Context(), "a")
	require.NoError(t, err)
	defer o.Close()
	for _, c := range []struct {
		offset int64
		whence int
		want   int64
	}{
		{2 * MiB, io.SeekStart, 2 * MiB}, {-10, io.SeekCurrent, 2*MiB + 990}, {0, io.SeekStart, 0}, {-1, io.SeekEnd, 3*MiB - 1},
		{1 << 18, io.SeekStart, 1 << 18}, {0, io.SeekEnd, 3 * MiB}, {100, io.SeekEnd, 3*MiB + 100}, {5, io.SeekStart, 5},
		{1<<18 - 500, io.SeekStart, 1<<18 - 500},
	} {
		at, err := o.Seek(c.offset, c.whence)
		require.NoError(t, err, "%+v", c)
		require.Equal(t, c.want, at, "%+v", c)
		want := content[min(c.want, 3*MiB):min(c.want+1000, 3*MiB)]
		got := make([]byte, 1000)
		n, err := io.ReadFull(o, got)
		require.Equal(t, want, got[:n], "%+v", c)
		if len(want) == 1000 {
			require.NoError(t, err, "%+v", c)
		} else if len(want) == 0 {
			require.ErrorIs(t, err, io.EOF, "%+v", c)
		}
	}
	_, err = o.Seek(-1, io.SeekStart)
	require.Error(t, err)
	_, err = o.Seek(0, 17)
	require.Error(t, err)
}

func testReplace(t *testing.T, f bucketstore.Files) {
	before := put(t, f, "a", Content(1, 5000))
	for i, size := range []int{5000, 5001, 10, 0, 9 * MiB, 5000} {
		content := Content(uint64(i+2), size)
		after := put(t, f, "a", content)
		require.NotEqual(t, before.Version, after.Version, "Version says that the content is another")
		requireContent(t, f, "a", content)
		require.Equal(t, []string{"a"}, list(t, f, ""))
		before = after
	}
}

func testRemove(t *testing.T, f bucketstore.Files) {
	for range 3 {
		put(t, f, "a/b/c", []byte("x"))
		put(t, f, "a/d", []byte("y"))
		require.NoError(t, f.Remove(t.Context(), "a/b/c"))
		requireAbsent(t, f, "a/b/c")
		requireContent(t, f, "a/d", []byte("y"))
		require.Equal(t, []string{"a/d"}, list(t, f, ""))
		require.NoError(t, f.Remove(t.Context(), "a/b/c"), "once more")
		require.NoError(t, f.Remove(t.Context(), "a"), "what only has files below it")
		require.NoError(t, f.Remove(t.Context(), "a/d/e"), "what would be below a file")
		requireContent(t, f, "a/d", []byte("y"))
	}
}

func testSizes(t *testing.T, f bucketstore.Files) {
	for i, size := range []int{0, 1, 4096, 1<<18 - 1, 1 << 18, 1<<18 + 1, 8*MiB - 1, 8 * MiB, 8*MiB + 1, 16 * MiB, 20 * MiB} {
		content := Content(uint64(i), size)
		state := put(t, f, "known", content)
		require.Equal(t, int64(size), state.Size)
		requireContent(t, f, "known", content)
		state, err := f.Put(t.Context(), "unknown", bytes.NewReader(content), -1)
		require.NoError(t, err, "%d bytes", size)
		require.Equal(t, int64(size), state.Size)
		requireContent(t, f, "unknown", content)
	}
}

func testReaders(t *testing.T, f bucketstore.Files) {
	content := Content(1, 10000)
	for _, size := range []int64{-1, 10000} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"one byte at a time": iotest.OneByteReader, "end with the last bytes": iotest.DataErrReader, "half": iotest.HalfReader,
		} {
			_, err := f.Put(t.Context(), "a", wrap(bytes.NewReader(content)), size)
			require.NoError(t, err, name)
			requireContent(t, f, "a", content)
		}
	}
}

var errContent = errors.New("content fails")

// failing yields content and then err, or where with is set err with the last bytes.
type failing struct {
	content []byte
	err     error
	with    bool
}

func (r *failing) Read(p []byte) (int, error) {
	n := copy(p, r.content)
	r.content = r.content[n:]
	if len(r.content) == 0 && (n == 0 || r.with) {
		return n, r.err
	}
	return n, nil
}

func testContentFails(t *testing.T, f bucketstore.Files) {
	content := Content(1, 100000)
	wrapped := fmt.Errorf("wrapped: %w", io.EOF)
	put(t, f, "there", []byte("old"))
	for _, offset := range []int{0, 1, 511, 512, 4096, 65536, 99999, 100000} {
		for _, size := range []int64{-1, 100000} {
			for _, cause := range []error{errContent, io.ErrUnexpectedEOF, wrapped, context.Canceled, store.ErrNotFound} {
				for _, with := range []bool{true, false} {
					for _, key := range []string{"nar/new", "there"} {
						_, err := f.Put(t.Context(), key, &failing{content[:offset], cause, with}, size)
						require.ErrorIs(t, err, cause, "%q fails after %d of %d bytes", key, offset, size)
					}
				}
			}
		}
		requireAbsent(t, f, "nar/new")
		requireContent(t, f, "there", []byte("old"))
		require.Equal(t, []string{"there"}, list(t, f, ""))
	}
}

func testContentFailsLate(t *testing.T, f bucketstore.Files) {
	content := Content(1, 17*MiB)
	put(t, f, "there", []byte("old"))
	for _, offset := range []int{5 * MiB, 8*MiB - 1, 8 * MiB, 8*MiB + 1, 16 * MiB, 17*MiB - 1, 17 * MiB} {
		for _, size := range []int64{-1, 17 * MiB} {
			for _, key := range []string{"nar/new", "there"} {
				_, err := f.Put(t.Context(), key, &failing{content: content[:offset], err: errContent}, size)
				require.ErrorIs(t, err, errContent, "%q fails after %d of %d bytes", key, offset, size)
			}
		}
		requireAbsent(t, f, "nar/new")
		requireContent(t, f, "there", []byte("old"))
		require.Equal(t, []string{"there"}, list(t, f, ""))
	}
}

func testContentOfAnotherSize(t *testing.T, f bucketstore.Files) {
	put(t, f, "there", []byte("old"))
	for _, c := range []struct{ promised, size int }{
		{0, 1}, {1, 0}, {100, 99}, {100, 101}, {100, 0}, {100, MiB}, {8 * MiB, 8*MiB + 1}, {8 * MiB, 8*MiB - 1},
		{9 * MiB, 10 * MiB}, {17 * MiB, 9 * MiB},
	} {
		for _, key := range []string{"new", "there"} {
			_, err := f.Put(t.Context(), key, bytes.NewReader(Content(1, c.size)), int64(c.promised))
			require.Error(t, err, "%q: %d bytes, promised %d", key, c.size, c.promised)
		}
		requireAbsent(t, f, "new")
		requireContent(t, f, "there", []byte("old"))
	}
}

// interrupted calls do before its last half.
type interrupted struct {
	first, second io.Reader
	do            func()
}

func (r *interrupted) Read(p []byte) (int, error) {
	n, err := r.first.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if r.do != nil {
		r.do()
		r.do = nil
	}
	return r.second.Read(p)
}

func interrupt(content []byte, do func()) io.Reader {
	half := len(content) / 2
	return &interrupted{bytes.NewReader(content[:half]), bytes.NewReader(content[half:]), do}
}

func testNotSeenBeforeItsEnd(t *testing.T, f bucketstore.Files) {
	put(t, f, "there", []byte("old"))
	for _, content := range [][]byte{Content(1, 5000), Content(2, 20*MiB)} {
		_, err := f.Put(t.Context(), "nar/new", interrupt(content, func() {
			requireAbsent(t, f, "nar/new")
			require.Equal(t, []string{"there"}, list(t, f, ""))
		}), -1)
		require.NoError(t, err)
		requireContent(t, f, "nar/new", content)
		_, err = f.Put(t.Context(), "there", interrupt(content, func() {
			requireContent(t, f, "there", []byte("old"))
		}), int64(len(content)))
		require.NoError(t, err)
		requireContent(t, f, "there", content)
		require.NoError(t, f.Remove(t.Context(), "nar/new"))
		put(t, f, "there", []byte("old"))
	}
}

func testList(t *testing.T, f bucketstore.Files) {
	keys := []string{
		"a.narinfo", "ab.narinfo", "b.narinfo", "log/a", "log.txt", "nar/a/b/c", "nar/a/b/d", "nar/ab", "nar/b", "nix-cache-info",
	}
	for i, key := range keys {
		put(t, f, key, Content(uint64(i), i*10))
	}
	for _, prefix := range []string{
		"", "a", "ab", "a.narinfo", "a.narinfox", "log", "log/", "log/a", "log/a/", "n", "nar", "nar/", "nar/a", "nar/a/", "nar/a/b/", "z",
	} {
		want := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !strings.HasPrefix(k, prefix) })
		slices.Sort(want)
		require.Equal(t, want, list(t, f, prefix), "prefix %q", prefix)
	}
	for e, err := range f.List(t.Context(), "") {
		require.NoError(t, err)
		require.Equal(t, int64(slices.Index(keys, e.Key)*10), e.Size, "%q", e.Key)
		require.False(t, e.Modified.IsZero(), "%q", e.Key)
	}
	for _, err := range f.List(t.Context(), "") {
		require.NoError(t, err)
		break // must not panic, and not hold on to anything
	}
}

func testCancelled(t *testing.T, f bucketstore.Files) {
	put(t, f, "there", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, key := range []string{"there", "absent"} {
		_, err := f.Open(ctx, key)
		require.ErrorIs(t, err, context.Canceled, "open %q", key)
		require.NotErrorIs(t, err, store.ErrNotFound, "%q could not be told", key)
		_, err = f.Put(ctx, key, strings.NewReader("y"), 1)
		require.ErrorIs(t, err, context.Canceled, "put %q", key)
		require.ErrorIs(t, f.Remove(ctx, key), context.Canceled, "remove %q", key)
	}
	var listed error
	for _, err := range f.List(ctx, "") {
		listed = err
	}
	require.ErrorIs(t, listed, context.Canceled, "a list that is cut short must not look whole")
	requireContent(t, f, "there", []byte("x"))
	requireAbsent(t, f, "absent")
}

func testCancelledPut(t *testing.T, f bucketstore.Files) {
	put(t, f, "there", []byte("old"))
	for _, content := range [][]byte{Content(1, 5000), Content(2, 17*MiB)} {
		for _, key := range []string{"new", "there"} {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := f.Put(ctx, key, interrupt(content, cancel), int64(len(content)))
			require.ErrorIs(t, err, context.Canceled, "%q", key)
			cancel()
		}
		requireAbsent(t, f, "new")
		requireContent(t, f, "there", []byte("old"))
		require.Equal(t, []string{"there"}, list(t, f, ""))
	}
}

func testReplacedWhileRead(t *testing.T, f bucketstore.Files) {
	testChangedWhileRead(t, f, func(size int) { put(t, f, "a", Content(99, size)) })
}

func testRemovedWhileRead(t *testing.T, f bucketstore.Files) {
	testChangedWhileRead(t, f, func(int) { require.NoError(t, f.Remove(t.Context(), "a")) })
}

// testChangedWhileRead reads what another changes: the old bytes whole, or an error, but never a mixture.
func testChangedWhileRead(t *testing.T, f bucketstore.Files, change func(size int)) {
	for _, c := range []struct{ size, first, after int }{
		{10, 0, 10}, {10, 5, 10}, {2 * MiB, 0, 2 * MiB}, {2 * MiB, 10, 2 * MiB}, {2 * MiB, MiB, 2 * MiB}, {2 * MiB, MiB, 3 * MiB},
		{20 * MiB, MiB, 100}, {20 * MiB, 5 * MiB, 20 * MiB}, {2 * MiB, 2*MiB - 1, 2 * MiB},
	} {
		old := Content(1, c.size)
		put(t, f, "a", old)
		o, err := f.Open(t.Context(), "a")
		require.NoError(t, err)
		got := make([]byte, c.first, c.size)
		_, err = io.ReadFull(o, got)
		require.NoError(t, err)
		change(c.after)
		rest, err := io.ReadAll(o)
		if err == nil {
			require.True(t, bytes.Equal(old, append(got, rest...)), "%+v: what was read whole is the old content", c)
		} else {
			require.True(t, bytes.HasPrefix(old[c.first:], rest), "%+v: what was read of it is the old content", c)
			require.NotErrorIs(t, err, store.ErrNotFound, "%+v: it was there", c)
		}
		require.NoError(t, o.Close())
	}
}
