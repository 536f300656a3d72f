// Package glob matches names against patterns in which only the star has a meaning: it stands for any run of
// characters, none and "/" included. Every other character stands for itself, and the whole name must match.
//
// Rules about who may do what are written in it. [path.Match] would not do: its star ends at a slash, so that
// "refs/heads/*" would miss the branch feature/x, and its other characters surprise in a URL.
package glob

import "strings"

// Match reports whether the whole text fits the pattern. It takes time proportional to the product of their lengths at
// most.
func Match(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	first, last := parts[0], parts[len(parts)-1]
	if len(parts) == 1 {
		return pattern == text
	}
	if len(text) < len(first)+len(last) || !strings.HasPrefix(text, first) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, ok := strings.Cut(text, part)
		if !ok {
			return false
		}
		text = after
	}
	return true
}

// Prefix returns what every text that fits the pattern begins with, and whether that is all there is to the pattern.
func Prefix(pattern string) (prefix string, whole bool) {
	prefix, _, star := strings.Cut(pattern, "*")
	return prefix, !star
}
