package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// size is a number of bytes, written as "20GiB", "500MB", "1.5G" or in plain bytes: K, M, G and T alone, like those
// with iB, are powers of 1024; those with B are powers of 1000.
type size int64

var sizeUnits = []struct {
	name  string
	bytes float64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3},
	{"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}, {"B", 1},
}

// parseSize reads a size that is not negative.
func parseSize(text string) (size, error) {
	number, factor := strings.TrimSpace(text), 1.0
	for _, u := range sizeUnits {
		if n, ok := cutSuffixFold(number, u.name); ok {
			number, factor = strings.TrimSpace(n), u.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n < 0 || math.IsNaN(n) || n*factor >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is no size (as 20GiB, 500MB or a number of bytes)", text)
	}
	return size(n * factor), nil
}

func cutSuffixFold(s, suffix string) (string, bool) {
	i := len(s) - len(suffix)
	if i < 0 || !strings.EqualFold(s[i:], suffix) {
		return s, false
	}
	return s[:i], true
}

// Set implements flag.Value.
func (s *size) Set(text string) (err error) {
	*s, err = parseSize(text)
	return err
}

// UnmarshalText is for the configuration file, where a size is a string.
func (s *size) UnmarshalText(text []byte) error { return s.Set(string(text)) }

// MarshalText is what config check prints.
func (s size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String implements flag.Value: in the largest unit of 1024s that divides it.
func (s size) String() string {
	for _, u := range sizeUnits[:4] {
		if unit := size(u.bytes); s != 0 && s%unit == 0 {
			return strconv.FormatInt(int64(s/unit), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
