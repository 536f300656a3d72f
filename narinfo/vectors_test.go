package narinfo_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// vector is one file of testdata/vectors: a line that says what becomes of the text, a line "---", and the text itself
// to its last byte. The line is one of
//
//	canonical            Parse accepts it, and formatting gives it back
//	accepted as NAME     Parse accepts it, and formatting gives the text of the canonical vector NAME
//	refused: REASON      Parse refuses it, and the error contains REASON
type vector struct{ name, verdict, text string }

func readVectors(t testing.TB) map[string]vector {
	t.Helper()
	files, err := filepath.Glob("testdata/vectors/*")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	vectors := make(map[string]vector)
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		verdict, text, ok := strings.Cut(string(b), "\n---\n")
		require.True(t, ok, file)
		name := filepath.Base(file)
		vectors[name] = vector{name, verdict, text}
	}
	return vectors
}

// canonical returns the text that formatting should give, and false for a text that should be refused.
func (v vector) canonical(t testing.TB, all map[string]vector) (string, bool) {
	t.Helper()
	if strings.HasPrefix(v.verdict, "refused: ") {
		return "", false
	}
	if name, ok := strings.CutPrefix(v.verdict, "accepted as "); ok {
		require.Equal(t, "canonical", all[name].verdict, "%s refers to %s", v.name, name)
		require.NotEqual(t, all[name].text, v.text, "%s is canonical", v.name)
		return all[name].text, true
	}
	require.Equal(t, "canonical", v.verdict, v.name)
	return v.text, true
}

func TestVectors(t *testing.T) {
	all := readVectors(t)
	for name, v := range all {
		t.Run(name, func(t *testing.T) {
			want, ok := v.canonical(t, all)
			info, err := narinfo.Parse([]byte(v.text))
			if !ok {
				require.ErrorContains(t, err, strings.TrimPrefix(v.verdict, "refused: "))
				require.Nil(t, info)
				return
			}
			require.NoError(t, err)
			require.Equal(t, want, format(t, info))
			require.Equal(t, info, parse(t, want), "the canonical text means the same")
		})
	}
}
