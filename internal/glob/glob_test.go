package glob_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/glob"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		name, pattern, text string
		want                bool
	}{
		{"exact", "org/repo", "org/repo", true},
		{"longer text", "org/repo", "org/repo2", false},
		{"longer pattern", "org/repo2", "org/repo", false},
		{"empty pattern", "", "", true},
		{"empty pattern, some text", "", "a", false},
		{"star alone", "*", "anything/at all", true},
		{"star for nothing", "org/*", "org/", true},
		{"star over slashes", "refs/heads/*", "refs/heads/feature/x", true},
		{"anchored at the front", "org/*", "evil/org/x", false},
		{"anchored at the end", "*.example.org", "a.example.org.evil", false},
		{"front and end do not overlap", "aba*aba", "ababa", false},
		{"in the middle", "a*b*c", "a__b__c", true},
		{"in the middle, out of order", "a*c*b*d", "a_b_c_d", false},
		{"middle must not eat the end", "a*b", "abab", true},
		{"two stars", "**", "", true},
		{"a star is a character of the text", "a*", "a*", true},
		{"case", "Org/*", "org/x", false},
		{"no other character is special", "a?[b]\\", "axb", false},
		{"the others stand for themselves", "a?[b]\\*", "a?[b]\\!", true},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, glob.Match(c.pattern, c.text)) })
	}
}

func TestPrefix(t *testing.T) {
	prefix, whole := glob.Prefix("org/*/x")
	require.Equal(t, "org/", prefix)
	require.False(t, whole)
	prefix, whole = glob.Prefix("org/x")
	require.Equal(t, "org/x", prefix)
	require.True(t, whole)
}

// FuzzMatch compares with the same pattern as a regular expression.
func FuzzMatch(f *testing.F) {
	f.Add("a*b*c", "a__b__c")
	f.Add("aba*aba", "ababa")
	f.Add("*a*ab*", "aab")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > 500 || strings.ToValidUTF8(pattern, "") != pattern || strings.ToValidUTF8(text, "") != text {
			t.Skip()
		}
		parts := strings.Split(pattern, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		want := regexp.MustCompile(`(?s)\A` + strings.Join(parts, ".*") + `\z`).MatchString(text)
		require.Equal(t, want, glob.Match(pattern, text))
	})
}
