package main_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload/hook"
)

// BenchmarkHook starts the hook, says what Nix 2.34 has said, and waits for the reply, which the coordinator gives at once.
// It reports the time from the start of the process, that of a further question to the same process, and the memory.
func BenchmarkHook(b *testing.B) {
	file, err := program()
	require.NoError(b, err)
	session, err := os.ReadFile("../../offload/hook/testdata/sessions/2.34")
	require.NoError(b, err)
	session, again := cutAtTries(b, session)
	socket := filepath.Join(b.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	require.NoError(b, err)
	server := &http.Server{Handler: hook.NewHandler(hook.Fixed{Verdict: hook.Decline}, nil), ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	var first, next []time.Duration
	memory := 0
	for b.Loop() {
		cmd := exec.CommandContext(context.Background(), file, "hook", "--socket", socket, "3")
		in, err := cmd.StdinPipe()
		require.NoError(b, err)
		out, err := cmd.StderrPipe()
		require.NoError(b, err)
		replies := bufio.NewReader(out)
		ask := func(text []byte) time.Duration {
			started := time.Now()
			if cmd.Process == nil {
				require.NoError(b, cmd.Start())
			}
			_, err := in.Write(text)
			require.NoError(b, err)
			line, err := replies.ReadString('\n')
			require.NoError(b, err)
			require.Equal(b, "# decline\n", line)
			return time.Since(started)
		}
		first = append(first, ask(session))
		next = append(next, ask(again))
		memory = max(memory, peakMemory(b, cmd.Process.Pid))
		require.NoError(b, in.Close())
		require.NoError(b, cmd.Wait())
	}
	slices.Sort(first)
	slices.Sort(next)
	report := func(times []time.Duration, name string) {
		b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, name+"-p50-ms")
		b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, name+"-p99-ms")
	}
	report(first, "first")
	report(next, "next")
	b.ReportMetric(float64(memory)/1024, "MiB-peak")
}

// cutAtTries returns a session's settings with its first question, and its second.
func cutAtTries(b *testing.B, session []byte) (first, next []byte) {
	b.Helper()
	const word = "\x03\x00\x00\x00\x00\x00\x00\x00try\x00\x00\x00\x00\x00"
	text := string(session)
	one := strings.Index(text, word)
	two := strings.LastIndex(text, word)
	require.Less(b, one, two)
	return session[:two], session[one:two]
}

// peakMemory is the most memory that a process has had, in KiB.
func peakMemory(b *testing.B, pid int) int {
	b.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	require.NoError(b, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(value)[0])
			require.NoError(b, err)
			return n
		}
	}
	return 0
}
