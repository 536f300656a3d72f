package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]size{
		"0": 0, "1": 1, "20GiB": 20 << 30, "500MB": 500e6, "1.5G": 3 << 29, "128mib": 128 << 20, " 4 KiB ": 4096, "7B": 7,
		"1T": 1 << 40,
	} {
		got, err := parseSize(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		again, err := parseSize(got.String())
		require.NoError(t, err, got.String())
		require.Equal(t, got, again, got.String())
	}
	for _, text := range []string{"", "GiB", "-1", "1 2", "x", "1XB", "NaN", "9e30", "Inf", "8EiB", "10000000T"} {
		_, err := parseSize(text)
		require.ErrorContains(t, err, "is no size", text)
	}
}
