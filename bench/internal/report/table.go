package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/voidnxlab/nixtrap/bench/internal/contest"
	"github.com/voidnxlab/nixtrap/bench/internal/stats"
)

// Run is a board and what it is of.
type Run struct {
	Workload string
	Board    contest.Board
	// Baselines are the contenders that others are compared with: in each pass the first that takes part.
	Baselines []string
}

// baseline is the series that others of the same pass are compared with, nil if there is none.
func (r *Run) baseline(p contest.Pass) *contest.Series {
	for _, name := range r.Baselines {
		if s := r.Board.Find(p, name); s != nil {
			return s
		}
	}
	return nil
}

// Table writes a run for people. Speed is the median of the ratios of the same round, quartiles behind it; CPU is
// the mean of the rounds, for it is counted in steps of 10 ms.
func Table(w io.Writer, r *Run) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var last contest.Pass
	for i, s := range r.Board {
		if i == 0 || s.Pass != last {
			title := r.Workload + ", " + s.Pass.String()
			if r.Workload == s.Pass.String() {
				title = r.Workload
			}
			fmt.Fprintf(t, "\n%s\tmedian\t±\tMB/s\twire MB\tserver CPU\tspeed\t(quartiles)\n", title)
		}
		last = s.Pass
		fmt.Fprintln(t, row(s, r.baseline(s.Pass)))
	}
	return t.Flush()
}

func row(s, base *contest.Series) string {
	times := stats.Summarize(s.Seconds())
	median, unit := times.Median*1e3, "ms"
	if (s.Pass.Kind == contest.Narinfo || s.Pass.Kind == contest.Absent) && len(s.Samples) > 0 {
		median, unit = times.Median*1e6/float64(s.Samples[0].Requests), "µs each"
	}
	text := fmt.Sprintf("%s\t%.1f %s\t%.0f %%\t%s\t%s\t%s", s.Contender, median, unit, 100*times.Spread(),
		megabytes(rate(s)), megabytes(stats.Summarize(wire(s)).Median), cpu(s))
	if base == nil {
		return text + "\t\t"
	}
	ratio := stats.Summarize(ratios(Speed, s, base))
	return text + fmt.Sprintf("\t%.2f\t(%.2f to %.2f)", ratio.Median, ratio.Low, ratio.High)
}

// rate is the median of logical bytes a second.
func rate(s *contest.Series) float64 {
	var rates []float64
	for _, sample := range s.Samples {
		rates = append(rates, float64(sample.Logical)/sample.Time.Seconds())
	}
	return stats.Summarize(rates).Median
}

func megabytes(bytes float64) string {
	if bytes == 0 {
		return "–"
	}
	if bytes < 10e6 {
		return fmt.Sprintf("%.2f", bytes/1e6)
	}
	return fmt.Sprintf("%.0f", bytes/1e6)
}

func cpu(s *contest.Series) string {
	var spent time.Duration
	for _, sample := range s.Samples {
		spent += sample.CPU
	}
	if spent == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f ms", float64(spent.Milliseconds())/float64(len(s.Samples)))
}

// CSV writes every sample of the runs.
func CSV(w io.Writer, runs []*Run) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{
		"workload", "pass", "contender", "round", "seconds", "requests", "logical_bytes", "wire_bytes", "cpu_seconds",
	})
	for _, r := range runs {
		for _, s := range r.Board {
			for i, sample := range s.Samples {
				_ = c.Write([]string{
					r.Workload, s.Pass.String(), s.Contender, strconv.Itoa(i + 1),
					strconv.FormatFloat(sample.Time.Seconds(), 'f', 6, 64), strconv.Itoa(sample.Requests),
					strconv.FormatInt(sample.Logical, 10), strconv.FormatInt(sample.Wire, 10),
					strconv.FormatFloat(sample.CPU.Seconds(), 'f', 2, 64),
				})
			}
		}
	}
	c.Flush()
	return c.Error()
}
