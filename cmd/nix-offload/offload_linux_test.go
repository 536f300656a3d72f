package main_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/buildertest"
	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/coordinator"
)

// office is a client with our hook, and a coordinator beside it.
type office struct {
	*buildertest.Client
	program string // inside
	running *exec.Cmd
	log     *os.File
}

func newOffice(t *testing.T, o *buildertest.ClientOptions, builders ...*buildertest.Builder) *office {
	t.Helper()
	o.Env = make([]string, 2)
	c := buildertest.NewClient(t, o)
	o.Env[0] = "NIX_CONFIG=build-hook = " + c.Dir() + "/nix-offload-hook" // 2.26 takes it from the environment alone
	o.Env[1] = "NIX_OFFLOAD_SOCKET=" + c.Dir() + "/run/coordinator.sock"
	file, err := program()
	require.NoError(t, err)
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	f := &office{Client: c, program: c.WriteFile(t, "nix-offload", string(text), 0o755)}
	require.NoError(t, os.Symlink("nix-offload", c.Path(c.Dir()+"/nix-offload-hook")))
	var list strings.Builder
	for _, b := range builders {
		fmt.Fprintln(&list, c.Line(t, buildertest.Machine{Builder: b, Jobs: 4, Rest: rest}))
	}
	c.WriteFile(t, "machines", list.String(), 0o600)
	f.log, err = os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	t.Cleanup(func() {
		f.kill()
		if text, err := os.ReadFile(f.log.Name()); err == nil && t.Failed() {
			t.Logf("coordinator:\n%s", text)
		}
	})
	// While the coordinator is away, Nix's own formula decides over these.
	c.SetConf(t, "build-hook = "+c.Dir()+"/nix-offload-hook\nbuilders = "+strings.ReplaceAll(strings.TrimSpace(list.String()), "\n", " ; ")+
		"\nmax-jobs = 0\nbuild-poll-interval = 1")
	f.start(t)
	return f
}

// rest are the last columns of a builder's line.
const rest = "1 big,ca-derivations -"

// command is our program as the client would run it.
func (f *office) command(t *testing.T, args ...string) *exec.Cmd {
	return f.Command(t, "../.."+f.program, args...)
}

func (f *office) start(t *testing.T) {
	t.Helper()
	f.running = f.command(t, "coordinator", "--machines", f.Dir()+"/machines", "--state-dir", f.Dir()+"/state")
	f.running.Stderr = f.log
	require.NoError(t, f.running.Start())
	buildertest.Await(t, "the coordinator answers", func() bool {
		return f.command(t, "status").Run() == nil
	})
}

func (f *office) kill() {
	if f.running == nil {
		return
	}
	_ = syscall.Kill(-f.running.Process.Pid, syscall.SIGKILL) // it runs below what enters the client's namespaces
	_ = f.running.Wait()
	f.running = nil
	for range 1000 { // what was waited for is its parent; it goes on listening until it is gone
		conn, err := net.Dial("unix", f.Path(f.Dir()+"/run/coordinator.sock"))
		if err != nil {
			return
		}
		_ = conn.Close()
		time.Sleep(5 * time.Millisecond)
	}
}

func (f *office) status(t *testing.T) (s coordinator.Status) {
	t.Helper()
	out, err := f.command(t, "status", "--json").Output()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(out, &s))
	return s
}

const trees = `{ tag, rows ? 2, columns ? 3, seconds ? "0.1" }: let
  make = name: inputs: derivation {
    name = "${tag}-${name}"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin"; inherit inputs;
    args = [ "-c" "echo building ${name} >&2; sleep ${seconds}; echo ${name} $inputs > $out" ];
    source = builtins.toFile "source" "${tag} ${name}";
  };
  count = n: builtins.genList (x: x) n;
  row = above: r: map (c: make "r${toString r}c${toString c}" above) (count columns);
in make "top" (builtins.foldl' row [] (count rows))`

// build builds a tree, all of it on builders.
func (f *office) build(t *testing.T, tag string, args ...string) (log string, err error) {
	t.Helper()
	file := f.WriteFile(t, "trees.nix", trees, 0o644)
	cmd := f.Command(t, "nix-build", append([]string{file, "--argstr", "tag", tag, "--no-out-link"}, args...)...)
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// quietBuilder is a builder that by its readings does nothing, whatever this machine does.
func quietBuilder(t *testing.T, release string) *buildertest.Builder {
	t.Helper()
	b := buildertest.Start(t, &buildertest.Options{Release: release, NixConf: "system-features = big ca-derivations"})
	if !b.Isolated() {
		t.Skip("a builder with readings of its own needs namespaces")
	}
	for name, text := range map[string]string{
		"pressure/cpu": idleFile, "pressure/memory": idleFile, "pressure/io": idleFile, "loadavg": "0.00 0.00 0.00 1/100 1000\n",
	} {
		b.SetReading(t, name, text)
	}
	return b
}

const idleFile = `some avg10=0.00 avg60=0.00 avg300=0.00 total=1
full avg10=0.00 avg60=0.00 avg300=0.00 total=1
`

func TestEveryReleaseOffloadsThroughTheHook(t *testing.T) {
	b := quietBuilder(t, "2.34")
	for _, release := range realnix.Releases() {
		for _, daemon := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, daemon %t", release, daemon), func(t *testing.T) {
				f := newOffice(t, &buildertest.ClientOptions{Release: release, Daemon: daemon}, b)
				tag := fmt.Sprintf("hook-%s-%t", release, daemon)
				log, err := f.build(t, tag)
				require.NoError(t, err, log)
				require.Contains(t, log, "building r0c0")
				require.Contains(t, log, b.Host)
				out, err := f.command(t, "explain", "--json", "--limit", "100").Output()
				require.NoError(t, err)
				var records []offload.Decision
				require.NoError(t, json.Unmarshal(out, &records))
				require.NotEmpty(t, records, "one that a slow machine answers late is left to Nix's own formula")
				for _, r := range records {
					require.NotNil(t, r.Outcome, r.Request.Name)
					require.Equal(t, offload.Built, r.Outcome.Result)
				}
				require.Empty(t, f.status(t).Builds, "no lease is left")
			})
		}
	}
}

// Nothing that is killed costs a build.
func TestCoordinatorAndHooksAreKilled(t *testing.T) {
	one, two := quietBuilder(t, "2.34"), quietBuilder(t, "2.26")
	f := newOffice(t, &buildertest.ClientOptions{}, one, two)
	done := make(chan string, 1)
	go func() {
		log, err := f.build(t, "killed", "--arg", "rows", "8", "--arg", "columns", "5", "--argstr", "seconds", "0.3")
		if err != nil {
			log += "\nFAILED: " + err.Error()
		}
		done <- log
	}()
	kills := 0
	for {
		select {
		case log := <-done:
			require.NotContains(t, log, "FAILED")
			require.Contains(t, log, "building top")
			require.Greater(t, kills, 2, "killed often enough to mean something")
			if f.running == nil {
				f.start(t)
			}
			require.Empty(t, f.status(t).Builds, "no lease is left")
			return
		case <-time.After(time.Second/4 + rand.N(time.Second/2)):
			f.kill()
			f.start(t)
			kills++
		}
	}
}
