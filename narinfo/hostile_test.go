package narinfo_test

import (
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// allocated returns how many bytes f allocates, whether they are kept or not.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// What a text makes Parse allocate is in proportion to its size, however it is made up.
func TestHostileTextsAreNotAmplified(t *testing.T) {
	const size = 1 << 20
	fill := func(line string) string { return minimal + strings.Repeat(line, (size-len(minimal))/len(line)) }
	reference := " " + strings.Repeat("0", 32) + "-x"
	references := func(dir string, bytes int) string {
		path := dir + "/" + strings.Repeat("0", 32) + "-x"
		return edit(edit(minimal, "StorePath", path), "References", strings.Repeat(reference, bytes/len(reference)))
	}
	for name, text := range map[string]string{
		"unknown fields":              fill("A: \n"),
		"signatures":                  fill("Sig: a:\n"),
		"one long unknown field":      minimal + "A: " + strings.Repeat("x", size) + "\n",
		"one long line without colon": strings.Repeat("x", size),
		"one long name":               minimal + strings.Repeat("x", size) + ": x\n",
		"one long number":             edit(minimal, "NarSize", strings.Repeat("1", size)),
		"one long hash":               edit(minimal, "NarHash", "sha256:"+strings.Repeat("1", size)),
		"one long content address":    minimal + "CA: fixed:r:sha256:" + strings.Repeat("1", size) + "\n",
		"one long reference":          edit(minimal, "References", strings.Repeat("0", size)),
		"spaces for references":       edit(minimal, "References", strings.Repeat(" ", size)),
		"many references":             references("/nix/store", size),
		"short store directory":       references("/s", size),
		"long store directory":        references("/"+strings.Repeat("x", 64<<10), size/64),
		"longest store directory":     references("/"+strings.Repeat("x", 3849), size/16),
		"longest store directory, more references than fit": references("/"+strings.Repeat("x", 3849), size),
		"half directory": references("/"+strings.Repeat("x", size/2), 1<<10),
		"empty lines":    strings.Repeat("\n", size),
	} {
		t.Run(name, func(t *testing.T) {
			got := allocated(func() { _, _ = narinfo.Parse([]byte(text)) })
			// The copies of the text made here and by Parse, and as much again for strings and their headers.
			// Only a long store directory makes more, up to its limit.
			bound := 4*len(text) + 64<<10
			if strings.HasPrefix(name, "longest store directory") {
				bound += 2 * narinfo.MaxSize
			}
			require.Less(t, got, int64(bound), "%.1f bytes for each byte", float64(got)/float64(len(text)))
		})
	}
}

func TestParseAcceptsWhatIsLarge(t *testing.T) {
	for _, n := range []int{150, 10_000, 70_000} {
		text := manyReferences(n)
		require.Equal(t, text, format(t, parse(t, text)), "%d references", n)
	}
	var lines strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&lines, "Sig: key-%d:AAAA\n", i)
	}
	require.Len(t, parse(t, minimal+lines.String()).Signatures, 1000)
}

// Parse of what caches hold allocates the result (a copy of the text, the Info, the references) and nothing more.
func TestParseAllocatesItsResultAlone(t *testing.T) {
	fourLines := drop(minimal, "References")
	for name, c := range map[string]struct {
		text   string
		allocs float64
	}{
		"4 lines":        {fourLines, 2},
		"150 references": {manyReferences(150), 4},
		"every hash":     {edit(minimal, "NarHash", "sha256-4zAlnA7OCdGg3M5Rciuzu4nF4gX0bTq0saL0mztZtVg="), 2},
	} {
		t.Run(name, func(t *testing.T) {
			text := []byte(c.text)
			info := parse(t, c.text)
			result := len(text) + int(reflect.TypeFor[narinfo.Info]().Size())
			for _, p := range info.References {
				result += len(p) + int(reflect.TypeFor[narinfo.StorePath]().Size())
			}
			const runs = 100
			bytes := allocated(func() {
				for range runs {
					_, _ = narinfo.Parse(text)
				}
			}) / runs
			// The allocator rounds each piece up, by an eighth at most.
			require.LessOrEqual(t, bytes, int64(result+result/8+300), "for a result of %d bytes", result)
			require.LessOrEqual(t, testing.AllocsPerRun(runs, func() { _, _ = narinfo.Parse(text) }), c.allocs)
		})
	}
}

func TestLimitsOfParseAndFormat(t *testing.T) {
	reference := func(dir string, n int) narinfo.StorePath { return narinfo.StorePath(fmt.Sprintf("%s/%032d-x", dir, n)) }
	dir := "/" + strings.Repeat("x", 3849)
	for name, c := range map[string]struct {
		fill  func(info *narinfo.Info, n int)
		most  int
		error string
	}{
		"unknown fields": {func(info *narinfo.Info, n int) {
			info.Extra = slices.Repeat([]narinfo.Field{{Name: "A"}}, n)
		}, 4096, "more than 4096 signatures and unknown fields"},
		"signatures": {func(info *narinfo.Info, n int) {
			info.Signatures = slices.Repeat([]signing.Signature{"a:"}, n)
		}, 4096, "more than 4096 signatures and unknown fields"},
		"both": {func(info *narinfo.Info, n int) {
			info.Extra = []narinfo.Field{{Name: "A"}}
			info.Signatures = slices.Repeat([]signing.Signature{"a:"}, n)
		}, 4095, "more than 4096 signatures and unknown fields"},
		"references in a long directory": {func(info *narinfo.Info, n int) {
			info.StorePath = reference(dir, 0)
			for i := range n {
				info.References = append(info.References, reference(dir, i))
			}
		}, 2 * narinfo.MaxSize / len(reference(dir, 0)), "more than 33554432 bytes of references as whole paths"},
		"length of the directory": {func(info *narinfo.Info, n int) {
			info.StorePath = reference("/"+strings.Repeat("x", n-1), 0)
		}, 3850, "a directory of 3851 bytes, more than 3850"},
	} {
		t.Run(name, func(t *testing.T) {
			most, more := parse(t, minimal), parse(t, minimal)
			c.fill(most, c.most)
			require.Equal(t, most, parse(t, format(t, most)))

			c.fill(more, c.most+1)
			_, err := more.MarshalText()
			require.ErrorContains(t, err, c.error)
		})
	}
}
