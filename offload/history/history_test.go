package history_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/history"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const gib = 1 << 30

func open(t testing.TB, name string, o *history.Options) *history.DB {
	t.Helper()
	d, err := history.Open(t.Context(), name, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func temp(t testing.TB) string { return filepath.Join(t.TempDir(), "history.db") }

func request(pname string) *offload.Request {
	return &offload.Request{DrvPath: "/nix/store/x-" + pname + ".drv", Name: pname + "-1.0", PName: pname, Stem: pname, System: "x86_64-linux"}
}

func build(pname, machine string, seconds float64, changes ...func(*history.Build)) *history.Build {
	b := &history.Build{
		Request: request(pname), Machine: machine, Wall: time.Duration(seconds * float64(time.Second)), Result: offload.Built, Ended: now,
	}
	for _, change := range changes {
		change(b)
	}
	return b
}

func record(t testing.TB, d *history.DB, builds ...*history.Build) {
	t.Helper()
	for _, b := range builds {
		require.NoError(t, d.Record(t.Context(), b))
	}
}

func TestWhatIsRecordedIsEstimated(t *testing.T) {
	d := open(t, temp(t), nil)
	require.Equal(t, offload.Estimate{}, d.Estimate(t.Context(), request("hello"), "a"))
	for i := range 10 {
		record(t, d, build("hello", "a", float64(10+i), func(b *history.Build) {
			b.PeakMemory, b.OutputBytes = int64(i+1)*gib, 1000
		}))
	}
	require.Equal(t, offload.Estimate{
		Source: offload.SourceMachine, Samples: 10, P50: 14.5, P90: 18, MemoryP50: 5*gib + gib/2, MemoryP90: 9 * gib, MemorySamples: 10, OutputBytes: 1000,
	}, d.Estimate(t.Context(), request("hello"), "a"))
}

func TestTheNearestSourceIsTaken(t *testing.T) {
	labelled := func(b *history.Build) { b.Request.Features = []string{"big-parallel"} }
	big := request("new")
	big.Features = []string{"big-parallel"}
	arm := request("hello")
	arm.System = "aarch64-linux"
	renamed := request("other")
	renamed.Stem = "hello"

	d := open(t, temp(t), nil)
	record(t, d, build("hello", "a", 10), build("hello", "a", 30), build("hello", "b", 100))
	for i := range 5 {
		record(t, d, build(fmt.Sprint("big", i), "a", 1000, labelled))
	}
	check := func(r *offload.Request, machine string, source offload.Source, p50 float64) {
		t.Helper()
		e := d.Estimate(t.Context(), r, machine)
		require.Equal(t, source, e.Source, "%s on %s: %+v", r.PName, machine, e)
		require.InEpsilon(t, p50, e.P50, 0.75, "%+v", e) // speeds are in it
	}
	check(request("hello"), "a", offload.SourceMachine, 20)
	check(request("hello"), "b", offload.SourceOthers, 40) // one build there says less than three
	check(request("hello"), "c", offload.SourceOthers, 30)
	check(renamed, "a", offload.SourceStem, 30)
	check(big, "a", offload.SourceLabel, 1000)
	require.Empty(t, d.Estimate(t.Context(), arm, "a").Source, "another system says nothing")
	require.Empty(t, d.Estimate(t.Context(), request("new"), "a").Source, "eight builds are not enough for all")
	for i := range 20 {
		record(t, d, build(fmt.Sprint("small", i), "a", 7))
	}
	check(request("new"), "a", offload.SourceGlobal, 7)
	require.True(t, d.Estimate(t.Context(), request("hello"), "c").Relative, "nothing is known of c's speed")
	require.False(t, d.Estimate(t.Context(), request("hello"), "b").Relative)
}

func TestTheLastBuildsCount(t *testing.T) {
	d := open(t, temp(t), nil)
	for i := range 60 {
		seconds := 100.0
		if i >= 40 {
			seconds = 10
		}
		record(t, d, build("hello", "a", seconds, func(b *history.Build) { b.Ended = now.Add(time.Duration(i) * time.Minute) }))
	}
	e := d.Estimate(t.Context(), request("hello"), "a")
	require.Equal(t, 20, e.Samples)
	require.Equal(t, 10.0, e.P90)
}

func TestFailedBuildsSayNothingOfTime(t *testing.T) {
	d := open(t, temp(t), nil)
	record(t, d, build("hello", "a", 1, func(b *history.Build) { b.Result = offload.Failed }), build("hello", "a", 50), build("hello", "a", 70))
	e := d.Estimate(t.Context(), request("hello"), "a")
	require.Equal(t, 2, e.Samples)
	require.Equal(t, 60.0, e.P50)
	require.Equal(t, 105.0, e.P90, "of two builds, half as much again as the longer")
}

func TestABuildThatRanOutOfMemoryTeaches(t *testing.T) {
	d := open(t, temp(t), nil)
	record(t, d, build("llvm", "a", 5, func(b *history.Build) { b.Result, b.PeakMemory = offload.OutOfMemory, 8*gib }))
	e := d.Estimate(t.Context(), request("llvm"), "b")
	require.Equal(t, offload.SourceGuess, e.Source)
	require.Equal(t, 1, e.MemorySamples)
	require.GreaterOrEqual(t, e.MemoryP90, int64(12*gib))
	require.Positive(t, e.P50)
}

func TestSpeedsAreLearned(t *testing.T) {
	d := open(t, temp(t), nil)
	require.Empty(t, d.Speeds(t.Context()))
	factor := map[string]float64{"slow": 2, "middle": 1, "fast": 0.5}
	for i := range 10 {
		for machine, f := range factor {
			if (i+len(machine))%3 == 0 {
				continue // no machine has built everything
			}
			for range 3 {
				record(t, d, build(fmt.Sprint("p", i), machine, f*float64(10*(i+1))))
			}
		}
	}
	record(t, d, build("alone", "lonely", 100))
	speeds := d.Speeds(t.Context())
	require.Len(t, speeds, 3)
	require.InEpsilon(t, 4, speeds["fast"]/speeds["slow"], 0.15, "%v", speeds)
	require.InEpsilon(t, 2, speeds["fast"]/speeds["middle"], 0.15, "%v", speeds)

	record(t, d, build("once", "slow", 200), build("once", "slow", 200))
	e := d.Estimate(t.Context(), request("once"), "fast")
	require.Equal(t, offload.SourceOthers, e.Source)
	require.InEpsilon(t, 50, e.P50, 0.15)
}

func TestTheNumberOfBuildsIsBounded(t *testing.T) {
	name := temp(t)
	o := &history.Options{PerKey: 3, Total: 10}
	d := open(t, name, o)
	for i := range 30 {
		record(t, d, build("hello", "a", float64(i)), build(fmt.Sprint("p", i), "a", 1))
	}
	for _, d := range []*history.DB{d, open(t, name, o)} {
		e := d.Estimate(t.Context(), request("hello"), "a")
		require.Equal(t, 3, e.Samples)
		require.Equal(t, 28.0, e.P50)
	}
	require.Empty(t, open(t, name, o).Estimate(t.Context(), request("p0"), "a").Source, "gone with the oldest")
}

func TestOptionsThatContradict(t *testing.T) {
	_, err := history.Open(t.Context(), temp(t), &history.Options{Total: -1})
	require.Error(t, err)
	require.Error(t, open(t, temp(t), nil).Record(t.Context(), &history.Build{Request: request("x")}))
}

func TestProcessesShareAFile(t *testing.T) {
	if name := os.Getenv("HISTORY_TEST_FILE"); name != "" {
		d := open(t, name, nil)
		for range 40 {
			record(t, d, build("hello", os.Getenv("HISTORY_TEST_MACHINE"), 5))
			d.Estimate(t.Context(), request("hello"), "a")
		}
		return
	}
	name := temp(t)
	d := open(t, name, nil)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcessesShareAFile$")
			cmd.Env = append(os.Environ(), "HISTORY_TEST_FILE="+name, fmt.Sprint("HISTORY_TEST_MACHINE=m", i))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("process %d: %v\n%s", i, err, out)
			}
		})
	}
	for range 40 {
		record(t, d, build("hello", "a", 5))
	}
	wg.Wait()
	for _, machine := range []string{"a", "m0", "m1", "m2"} {
		e := d.Estimate(t.Context(), request("hello"), machine)
		require.Equal(t, offload.SourceMachine, e.Source, machine)
		require.Equal(t, 20, e.Samples)
	}
}

func TestGoroutinesShareADB(t *testing.T) {
	d := open(t, temp(t), nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				record(t, d, build("hello", fmt.Sprint("m", i), 5))
				d.Estimates(t.Context(), request("hello"), []string{"m0", "m1"})
				d.Speeds(t.Context())
				_, err := d.Note(t.Context(), &offload.Decision{When: now, Request: *request("hello")})
				require.NoError(t, err)
				_, err = d.Decisions(t.Context(), "", 5)
				require.NoError(t, err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 20, d.Estimate(t.Context(), request("hello"), "m7").Samples)
}

func TestADamagedFileIsMovedAside(t *testing.T) {
	filled := temp(t)
	d, err := history.Open(t.Context(), filled, nil)
	require.NoError(t, err)
	for i := range 300 {
		record(t, d, build(fmt.Sprint("p", i), "a", 5))
	}
	require.NoError(t, d.Close())
	good, err := os.ReadFile(filled)
	require.NoError(t, err)

	damages := map[string][]byte{
		"no database":    []byte(strings.Repeat("this is no database\n", 100)),
		"cut short":      good[:len(good)/2],
		"zeros inside":   append(append(bytes.Clone(good[:8192]), make([]byte, 8192)...), good[16384:]...),
		"a short header": good[:50],
	}
	for name, content := range damages {
		t.Run(name, func(t *testing.T) {
			file := temp(t)
			require.NoError(t, os.WriteFile(file, content, 0o600))
			var log bytes.Buffer
			d := open(t, file, &history.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			record(t, d, build("hello", "a", 5), build("hello", "a", 5))
			require.Equal(t, 2, d.Estimate(t.Context(), request("hello"), "a").Samples)
			require.Contains(t, log.String(), "history was damaged and is begun anew")
			aside, err := filepath.Glob(file + ".damaged-*")
			require.NoError(t, err)
			require.NotEmpty(t, aside)
			require.Equal(t, 2, open(t, file, nil).Estimate(t.Context(), request("hello"), "a").Samples, "the new file keeps them")
		})
	}
}

func TestDamageWhileOpenIsNoticed(t *testing.T) {
	file := temp(t)
	var log bytes.Buffer
	d := open(t, file, &history.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	other := open(t, file, nil)
	record(t, d, build("hello", "a", 5), build("hello", "a", 5))
	record(t, other, build("hello", "a", 5))
	require.NoError(t, os.WriteFile(file, []byte(strings.Repeat("this is no database\n", 1000)), 0o600))
	require.NoError(t, os.WriteFile(file+"-wal", nil, 0o600))
	record(t, d, build("hello", "a", 5))
	record(t, other, build("hello", "a", 5))
	record(t, d, build("hello", "a", 5))
	require.GreaterOrEqual(t, d.Estimate(t.Context(), request("hello"), "a").Samples, 3)
	require.GreaterOrEqual(t, open(t, file, nil).Estimate(t.Context(), request("hello"), "a").Samples, 2)
}

func TestWithoutAFileMemoryServes(t *testing.T) {
	newer := temp(t)
	d, err := history.Open(t.Context(), newer, nil)
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.NoError(t, history.Exec(newer, "pragma user_version = 2"))
	foreign := temp(t)
	require.NoError(t, history.Exec(foreign, "create table mine (x)"))
	for name, file := range map[string]string{
		"no folder": filepath.Join(t.TempDir(), "none", "history.db"), "a newer version": newer, "another's database": foreign, "a folder": t.TempDir(),
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			d := open(t, file, &history.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			require.Contains(t, log.String(), "history is kept in memory alone")
			for range 3 {
				require.Error(t, d.Record(t.Context(), build("hello", "a", 5)))
			}
			require.Equal(t, 3, d.Estimate(t.Context(), request("hello"), "a").Samples)
			_, err := d.Note(t.Context(), &offload.Decision{When: now})
			require.Error(t, err)
			aside, err := filepath.Glob(file + ".damaged-*")
			require.NoError(t, err)
			require.Empty(t, aside, "it is not ours to move")
		})
	}
}

func TestAnEndedContextLeavesWhatWasKnown(t *testing.T) {
	d := open(t, temp(t), nil)
	record(t, d, build("hello", "a", 5), build("hello", "a", 5))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Equal(t, 2, d.Estimate(ctx, request("hello"), "a").Samples)
	require.Error(t, d.Record(ctx, build("hello", "a", 5)))
	require.Equal(t, 3, d.Estimate(t.Context(), request("hello"), "a").Samples, "in memory")
}

const reports = `hostname,derivation name,utc time,build seconds
localhost,hello,2026-01-02 03:04:05,10
big,hello,2026-01-02 03:04:06,5
big,hello,2026-01-02 03:04:07,7
unknown,hello,2026-01-02 03:04:08,700
big,"qu""oted",2026-01-02 03:04:09,7
big,hello,yesterday,7
big,hello
big,hello,2026-01-02 03:04:10,-1
`

func TestReportsOfNixOutputMonitorAreSeeds(t *testing.T) {
	machine := func(host string) string {
		return map[string]string{"localhost": "here", "big": "big.example"}[host]
	}
	d := open(t, temp(t), nil)
	n, err := d.SeedReports(t.Context(), strings.NewReader(reports), machine)
	require.NoError(t, err)
	require.Equal(t, 4, n)
	e := d.Estimate(t.Context(), request("hello"), "big.example")
	require.Equal(t, offload.SourceStem, e.Source)
	require.Equal(t, 3, e.Samples)
	n, err = d.SeedReports(t.Context(), strings.NewReader(reports), machine)
	require.NoError(t, err)
	require.Zero(t, n, "the second time")
	headless := strings.SplitAfterN(reports, "\n", 2)[1]
	n, err = open(t, temp(t), nil).SeedReports(t.Context(), strings.NewReader(headless), machine)
	require.NoError(t, err)
	require.Equal(t, 4, n, "without a head")
	swapped := "build seconds,hostname,utc time,derivation name\n3,big,2026-01-02 03:04:06,hello\n"
	n, err = open(t, temp(t), nil).SeedReports(t.Context(), strings.NewReader(swapped), machine)
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

func TestDecisionsAreKept(t *testing.T) {
	file := temp(t)
	d := open(t, file, &history.Options{Decisions: 5})
	first := &offload.Decision{When: now, Request: *request("hello"), Choice: offload.Choice{Verdict: offload.Accept, Machine: "a"}}
	id, err := d.Note(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, id, first.ID)
	second := &offload.Decision{When: now.Add(time.Hour), Request: *request("hello"), Choice: offload.Choice{Verdict: offload.Decline}}
	_, err = d.Note(t.Context(), second)
	require.NoError(t, err)
	_, err = d.Note(t.Context(), &offload.Decision{When: now, Request: *request("other")})
	require.NoError(t, err)
	outcome := &offload.Outcome{When: now.Add(time.Minute), Result: offload.Built, Machine: "a", Seconds: 60}
	require.NoError(t, d.Finish(t.Context(), id, outcome))

	got, err := open(t, file, nil).Decisions(t.Context(), first.Request.DrvPath, 10)
	require.NoError(t, err)
	first.Outcome = outcome
	require.Equal(t, []offload.Decision{*second, *first}, got)

	for range 5 {
		_, err = d.Note(t.Context(), &offload.Decision{When: now.Add(2 * time.Hour), Request: *request("more")})
		require.NoError(t, err)
	}
	got, err = d.Decisions(t.Context(), "", 100)
	require.NoError(t, err)
	require.Len(t, got, 5)
	require.ErrorIs(t, d.Finish(t.Context(), id, outcome), history.ErrNotFound)

	_, err = d.Note(t.Context(), &offload.Decision{When: now.Add(31 * 24 * time.Hour), Request: *request("late")})
	require.NoError(t, err)
	got, err = d.Decisions(t.Context(), "", 100)
	require.NoError(t, err)
	require.Len(t, got, 1, "older than 30 days")
}

// many fills a history with 10,000 builds of 500 packages on 50 machines.
func many(b *testing.B) (*history.DB, []string) {
	name := temp(b)
	machines := make([]string, 50)
	for i := range machines {
		machines[i] = fmt.Sprintf("machine-%02d", i)
	}
	require.NoError(b, history.Fill(b.Context(), name, 10_000, func(i int) *history.Build {
		return build(fmt.Sprint("package", i%500), machines[i*7%50], float64(1+i%300), func(b *history.Build) {
			b.PeakMemory, b.Ended = int64(i)*1e5, now.Add(time.Duration(i)*time.Second)
		})
	}))
	return open(b, name, nil), machines
}

func BenchmarkEstimates(b *testing.B) {
	d, machines := many(b)
	r := request("package7")
	require.NotEmpty(b, d.Estimate(b.Context(), r, machines[0]).Source)
	b.ReportAllocs()
	for b.Loop() {
		d.Estimates(b.Context(), r, machines)
	}
}

// Another process's build is read before each estimate.
func BenchmarkEstimatesAfterAnother(b *testing.B) {
	d, machines := many(b)
	other := open(b, history.Name(d), nil)
	r := request("package7")
	var reading time.Duration
	n := 0
	for b.Loop() {
		record(b, other, build("package7", machines[n%50], 5))
		started := time.Now()
		d.Estimates(b.Context(), r, machines)
		reading += time.Since(started)
		n++
	}
	b.ReportMetric(float64(reading.Microseconds())/float64(n), "estimate-µs")
}

func BenchmarkRecord(b *testing.B) {
	d, machines := many(b)
	for i := 0; b.Loop(); i++ {
		record(b, d, build("package7", machines[i%50], 5))
	}
}

func BenchmarkOpen(b *testing.B) {
	d, _ := many(b)
	for b.Loop() {
		again, err := history.Open(b.Context(), history.Name(d), nil)
		require.NoError(b, err)
		require.NoError(b, again.Close())
	}
}
