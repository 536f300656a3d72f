// Package peer runs servers of other projects in tests, at free ports of the loopback. `.ci/NAME` installs the program
// NAME, outside of go.mod.
//
// A test is skipped with a line that says so where the program is not in $NIXTRAP_TOOLS (~/.cache/nixtrap/bin by
// default) or on the PATH; with NIXTRAP_REQUIRE_NIX set it fails instead.
package peer

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// starting is how long a server may take until it answers.
const starting = 10 * time.Second

// Program finds a program, or ends the test.
func Program(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("NIXTRAP_TOOLS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err == nil {
			dir = filepath.Join(cache, "nixtrap", "bin")
		}
	}
	for _, file := range []string{filepath.Join(dir, name), name} {
		if found, err := exec.LookPath(file); err == nil {
			return found
		}
	}
	if os.Getenv("NIXTRAP_REQUIRE_NIX") != "" {
		t.Fatalf("peer: no %[1]s here: run .ci/%[1]s (NIXTRAP_REQUIRE_NIX is set)", name)
	}
	t.Skipf("peer: no %[1]s here: run .ci/%[1]s", name)
	return ""
}

// Serve starts a server that can't be told to choose its ports, and waits until it answers. Another process may take a
// port that was free: then it is started again, with others. command is told so many free addresses, "127.0.0.1:PORT";
// answers tries once whether the very process that command made is there. What the server prints is in the file log.
// The test's end kills it.
func Serve(
	t testing.TB, ports int, command func(addresses []string) *exec.Cmd, answers func(addresses []string) bool,
) (addresses []string, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "log")
	for range 5 {
		addresses = free(t, ports)
		if start(t, command(addresses), log, func() bool { return answers(addresses) }) {
			return addresses, log
		}
	}
	output, _ := os.ReadFile(log)
	t.Fatalf("peer: %v does not start: %s", command(addresses).Args, output)
	return nil, ""
}

// free are addresses that nobody listens at.
func free(t testing.TB, n int) (addresses []string) {
	t.Helper()
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close() // all of them at the end, so that no two are the same
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses
}

func start(t testing.TB, cmd *exec.Cmd, log string, answers func() bool) bool {
	t.Helper()
	output, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatalf("peer: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // killed, or the log says why
	}()
	stop := func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	}
	if await(answers, ended) {
		t.Cleanup(stop)
		return true
	}
	stop()
	return false
}

// await tries until it is answered, as long as the process runs.
func await(answers func() bool, ended <-chan struct{}) bool {
	for deadline := time.Now().Add(starting); time.Now().Before(deadline); {
		if answers() {
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}
