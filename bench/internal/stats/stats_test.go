package stats_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/bench/internal/stats"
)

func TestSummarize(t *testing.T) {
	for _, test := range []struct {
		name    string
		samples []float64
		want    stats.Summary
	}{
		{"none", nil, stats.Summary{}},
		{"one", []float64{3}, stats.Summary{N: 1, Median: 3, Low: 3, High: 3, Mean: 3}},
		{"two", []float64{4, 2}, stats.Summary{N: 2, Median: 3, Low: 2.5, High: 3.5, Mean: 3}},
		{"five with an outlier", []float64{5, 1, 3, 2, 100}, stats.Summary{N: 5, Median: 3, Low: 2, High: 5, Mean: 22.2}},
	} {
		before := append([]float64(nil), test.samples...)
		require.Equal(t, test.want, stats.Summarize(test.samples), test.name)
		require.Equal(t, before, test.samples, "%s: samples stay in order", test.name)
	}
}

func TestSpread(t *testing.T) {
	require.InDelta(t, 0.5, stats.Summarize([]float64{1, 5, 3, 2, 4}).Spread()*1.5, 1e-9)
	require.Zero(t, stats.Summary{}.Spread())
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	require.Equal(t, []float64{2, 2, 2}, stats.Ratios([]float64{2, 20, 200}, []float64{1, 10, 100}), "drift cancels")
	require.Equal(t, []float64{3}, stats.Ratios([]float64{3, 1}, []float64{1}), "a round short")
	require.Empty(t, stats.Ratios([]float64{3}, []float64{0}), "no division by zero")
}
