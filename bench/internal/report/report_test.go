package report_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/bench/internal/contest"
	"github.com/voidnxlab/nixtrap/bench/internal/report"
)

var pass = contest.Pass{Kind: contest.NAR, Connections: 4, Repeat: 1}

// series has samples of so many milliseconds.
func series(name string, wire int64, ms ...int) *contest.Series {
	s := &contest.Series{Pass: pass, Contender: name}
	for _, n := range ms {
		s.Samples = append(s.Samples, contest.Sample{
			Time: time.Duration(n) * time.Millisecond, Requests: 2, Logical: 100e6, Wire: wire, CPU: 30 * time.Millisecond,
		})
	}
	return s
}

func board() contest.Board {
	return contest.Board{series("nginx", 50e6, 100, 200, 400), series("ours", 40e6, 80, 160, 500)}
}

func TestJudge(t *testing.T) {
	for _, test := range []struct {
		name    string
		goal    report.Goal
		reached bool
		got     string
	}{
		{"speed reached", report.Goal{Limit: 1.25}, true, "1.250 (1.025 to 1.250)"},
		{"speed missed", report.Goal{Limit: 1.26}, false, "1.250 (1.025 to 1.250)"},
		{"time reached", report.Goal{Quantity: report.Time, Limit: 0.81}, true, "0.800 (0.800 to 1.025)"},
		{"time missed", report.Goal{Quantity: report.Time, Limit: 0.79}, false, "0.800 (0.800 to 1.025)"},
		{"wire reached", report.Goal{Quantity: report.Wire, Limit: 1}, true, "0.800 (0.800 to 0.800)"},
		{"wire missed: no fewer", report.Goal{Quantity: report.Wire, Limit: 0.8}, false, "0.800 (0.800 to 0.800)"},
	} {
		test.goal.Contender, test.goal.Baseline, test.goal.Pass = "ours", "nginx", pass
		got := report.Judge("work", board(), []report.Goal{test.goal})
		require.Len(t, got, 1, test.name)
		require.Equal(t, test.reached, got[0].Reached, test.name)
		require.Equal(t, test.got, got[0].Got, test.name)
		require.Contains(t, got[0].Line(), map[bool]string{true: "reached", false: "MISSED"}[test.reached], test.name)
	}
	require.Empty(t, report.Judge("work", board(), []report.Goal{{Contender: "absent", Baseline: "nginx", Pass: pass}}))
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, report.Table(&b, &report.Run{Workload: "work", Board: board(), Baselines: []string{"absent", "nginx"}}))
	require.Equal(t, `
work, NAR c4  median    ±     MB/s  wire MB  server CPU  speed  (quartiles)
nginx         200.0 ms  38 %  500   50       30 ms       1.00   (1.00 to 1.00)
ours          160.0 ms  66 %  625   40       30 ms       1.25   (1.02 to 1.25)
`, b.String())
}

func TestCSV(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, report.CSV(&b, []*report.Run{{Workload: "work, a", Board: board()[:1]}}))
	require.Contains(t, b.String(), "\"work, a\",NAR c4,nginx,3,0.400000,2,100000000,50000000,0.03\n")
}
