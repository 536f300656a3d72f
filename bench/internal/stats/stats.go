// Package stats reduces the samples of a benchmark to the few numbers that are compared.
//
// Machines that are shared drift: a run is compared with the run beside it, so what is judged is the median of the
// ratios of samples of the same round, see [Ratios], not the ratio of two medians.
package stats

import (
	"math"
	"slices"
)

// Summary is what is told of a number of samples. The zero value is that of none.
type Summary struct {
	N      int
	Median float64
	Low    float64 // first quartile
	High   float64 // third quartile
	Mean   float64
}

// Summarize computes a Summary; samples stay as they are. Quartiles are interpolated linearly.
func Summarize(samples []float64) Summary {
	if len(samples) == 0 {
		return Summary{}
	}
	sorted := slices.Sorted(slices.Values(samples))
	var sum float64
	for _, s := range sorted {
		sum += s
	}
	return Summary{
		N:      len(sorted),
		Median: quantile(sorted, 0.5),
		Low:    quantile(sorted, 0.25),
		High:   quantile(sorted, 0.75),
		Mean:   sum / float64(len(sorted)),
	}
}

// Spread is half the distance of the quartiles as a part of the median: 0.05 reads "± 5 %".
func (s Summary) Spread() float64 {
	if s.Median == 0 {
		return 0
	}
	return (s.High - s.Low) / 2 / math.Abs(s.Median)
}

// Ratios divides the samples of each round; rounds that one of the two lacks are left out.
func Ratios(samples, baseline []float64) []float64 {
	var ratios []float64
	for i := range min(len(samples), len(baseline)) {
		if baseline[i] != 0 {
			ratios = append(ratios, samples[i]/baseline[i])
		}
	}
	return ratios
}

func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	below := int(at)
	if below+1 == len(sorted) {
		return sorted[below]
	}
	return sorted[below] + (at-float64(below))*(sorted[below+1]-sorted[below])
}
