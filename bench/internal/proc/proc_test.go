package proc

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseStat(t *testing.T) {
	s, err := parseStat([]byte("7 (a ) (b) S 3 7 7 0 -1 4 1 2 3 4 100 20 3 4 20 0 1 0 5 6 7"))
	require.NoError(t, err)
	require.Equal(t, stat{parent: 3, ticks: 127}, s)
	for _, text := range []string{"", "7 (x) S 3", "7 (x) S a 7 7 0 -1 4 1 2 3 4 1 2 3 4 20", "7 (x) S 1 7 7 0 -1 4 1 2 3 4 a 2 3 4 20"} {
		_, err := parseStat([]byte(text))
		require.Error(t, err, "%q", text)
	}
}

func TestDescends(t *testing.T) {
	all := map[int]stat{1: {parent: 0}, 2: {parent: 1}, 3: {parent: 2}, 4: {parent: 1}, 5: {parent: 5}}
	require.True(t, descends(all, 3, 1))
	require.True(t, descends(all, 3, 2))
	require.True(t, descends(all, 3, 3))
	require.False(t, descends(all, 4, 2))
	require.False(t, descends(all, 5, 1), "a loop ends")
}

func TestParseMemory(t *testing.T) {
	text := "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nRssAnon:\t     512 kB\n"
	require.Equal(t, Memory{Now: 1 << 20, Peak: 2 << 20, Anon: 512 << 10}, parseMemory([]byte(text)))
	require.Zero(t, parseMemory(nil))
}

func TestCPUCountsChildrenThatEnded(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is no /proc here")
	}
	before, err := CPU(os.Getpid())
	require.NoError(t, err)
	require.NoError(t, exec.Command("sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done").Run())
	after, err := CPU(os.Getpid())
	require.NoError(t, err)
	require.Greater(t, after-before, 5*time.Millisecond)
	_, err = CPU(-1)
	require.Error(t, err)
	m, err := MemoryOf(os.Getpid())
	require.NoError(t, err)
	require.Positive(t, m.Now)
	require.GreaterOrEqual(t, m.Peak, m.Now)
}

func TestDescribe(t *testing.T) {
	m := Describe(t.Context(), "/nonexistent/nginx")
	require.Equal(t, runtime.NumCPU(), m.Cores)
	require.Empty(t, m.Nginx)
	require.Contains(t, m.Lines(), "Go: "+runtime.Version())
}
