package main_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/offload/hook"
)

// accept sends every build to the second machine.
func (r *rig) accept(t *testing.T) deciderFunc {
	line := r.line(t, "lease-1")
	return func(hook.Settings, *hook.Try) (*hook.Answer, error) {
		return &hook.Answer{Verdict: hook.Accept, Line: line, Name: "big machine (lease 1)"}, nil
	}
}

func always(verdict hook.Verdict) deciderFunc {
	return func(hook.Settings, *hook.Try) (*hook.Answer, error) { return &hook.Answer{Verdict: verdict}, nil }
}

func nothing(*rig) {}

func TestBuildGoesWhereTheCoordinatorSays(t *testing.T) {
	everywhere(t, nothing, func(t *testing.T, r *rig) {
		t.Run("accept", func(t *testing.T) {
			answer := r.accept(t)
			q := r.coordinate(t, func(settings hook.Settings, try *hook.Try) (*hook.Answer, error) {
				jobs, _ := settings.Lookup("max-jobs")
				a, err := answer(settings, try)
				a.Messages = []hook.Message{{Level: 0, Text: "because it is big, jobs " + jobs}}
				return a, err
			})
			got := r.build(t, "where", "echo a line of the log; "+r.whereScript(), `requiredSystemFeatures = [ "big" ];`)
			require.Zero(t, got.status, got.stderr)
			require.Equal(t, "builder", r.read(t, got.stdout))
			require.Contains(t, got.stderr, "on 'big machine (lease 1)'")
			require.Contains(t, got.stderr, "because it is big, jobs 1")
			require.Contains(t, got.stderr, "a line of the log")
			require.Contains(t, r.run(t, "nix", "log", got.stdout).stdout, "a line of the log", "the log is stored")
			tries := q.all()
			require.Len(t, tries, 1)
			require.True(t, tries[0].Willing)
			require.Equal(t, "x86_64-linux", tries[0].System)
			require.Equal(t, []string{"big"}, tries[0].Features)
			require.True(t, strings.HasSuffix(tries[0].Drv, "-where.drv"))
			locks, err := filepath.Glob(r.nix.Host(r.dir + "/nix/state/current-load/*lease-1*"))
			require.NoError(t, err)
			require.Len(t, locks, 2, "build-remote keeps two files for each name of a machine, for ever")
		})
		t.Run("outputs and inputs", func(t *testing.T) {
			q := r.coordinate(t, r.accept(t))
			got := r.build(t, "several", "echo $dev $doc > $out; cat $input > $dev; echo documents > $doc", fmt.Sprintf(`
				outputs = [ "out" "dev" "doc" ];
				input = derivation { name = "input"; system = builtins.currentSystem; builder = "/bin/sh";
					PATH = "/usr/bin:/bin"; args = [ "-c" %s ]; };`, nixString(r.whereScript())))
			require.Zero(t, got.status, got.stderr)
			others := strings.Fields(r.read(t, got.stdout))
			require.Len(t, others, 2)
			require.Equal(t, "builder", r.read(t, others[0]))
			require.Equal(t, "documents", r.read(t, others[1]))
			require.Len(t, q.all(), 2)
		})
		t.Run("decline", func(t *testing.T) {
			q := r.coordinate(t, always(hook.Decline))
			got := r.build(t, "declined", r.whereScript(), fmt.Sprintf(
				`input = derivation { name = "first"; system = builtins.currentSystem; builder = "/bin/sh";
					PATH = "/usr/bin:/bin"; args = [ "-c" %s ]; };`, nixString(r.whereScript())))
			require.Zero(t, got.status, got.stderr)
			require.Equal(t, "nix", r.read(t, got.stdout))
			require.Len(t, q.all(), 2, "one hook answers about many")
		})
		t.Run("postpone", func(t *testing.T) {
			var asked atomic.Int64
			accept := r.accept(t)
			r.coordinate(t, func(settings hook.Settings, try *hook.Try) (*hook.Answer, error) {
				if asked.Add(1) == 1 {
					return always(hook.Postpone)(settings, try)
				}
				return accept(settings, try)
			})
			got := r.build(t, "postponed", r.whereScript(), "")
			require.Zero(t, got.status, got.stderr)
			require.Equal(t, "builder", r.read(t, got.stdout))
			require.EqualValues(t, 2, asked.Load())
		})
		t.Run("plain", func(t *testing.T) {
			r.coordinate(t, always(hook.Plain))
			got := r.build(t, "plain", r.whereScript(), "")
			require.Zero(t, got.status, got.stderr)
			require.Equal(t, "nix", r.read(t, got.stdout), "no builders are set")
		})
		t.Run("failure", func(t *testing.T) { testFailure(t, r) })
	})
}

// TestAllReleasesReadTheseMachines is about what a coordinator may write.
func TestAllReleasesReadTheseMachines(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			r := newRig(t, release, false)
			for name, columns := range map[string]string{
				"dashes":    "- - - - - -",
				"system":    "x86_64-linux",
				"systems":   "i686-linux,x86_64-linux - 2 3",
				"supported": "x86_64-linux - 1 1 big,kvm -",
				"mandatory": "x86_64-linux - 1 1 - big",
				"hostkey":   "x86_64-linux - 1 1 big - -",
			} {
				t.Run(name, func(t *testing.T) {
					uri, _, _ := strings.Cut(r.line(t, "leases.of_"+name+"-1"), " ")
					r.coordinate(t, func(hook.Settings, *hook.Try) (*hook.Answer, error) {
						return &hook.Answer{Verdict: hook.Accept, Line: uri + " " + columns}, nil
					})
					features := ""
					if strings.Contains(columns, "big") {
						features = `requiredSystemFeatures = [ "big" ];`
					}
					got := r.build(t, name, r.whereScript(), features)
					require.Zero(t, got.status, got.stderr)
					require.Equal(t, "builder", r.read(t, got.stdout))
				})
			}
		})
	}
}

// TestMisuseInNixConfBuildsHere has an operator write a flag that there is not.
func TestMisuseInNixConfBuildsHere(t *testing.T) {
	for _, release := range []string{"2.26", "2.34"} { // 2.8 takes no flags
		t.Run(release, func(t *testing.T) {
			r := newRig(t, release, false)
			r.config[len(r.config)-1] += " --frobnicate"
			got := r.build(t, "misuse", r.whereScript(), "")
			require.Zero(t, got.status, got.stderr)
			require.Equal(t, "nix", r.read(t, got.stdout))
			require.Contains(t, got.stderr, "not defined: --frobnicate")
		})
	}
}

// testFailure compares with a build that Nix does by itself over the same second machine.
func testFailure(t *testing.T, r *rig) {
	const script = "echo last words; exit 7"
	q := r.coordinate(t, r.accept(t))
	ours := r.build(t, "fails", script, "")
	require.Len(t, q.all(), 1)

	plain := newRig(t, r.nix.Release, r.daemon)
	plain.withoutHook(t)
	plain.start(t)
	theirs := plain.build(t, "fails", script, "")
	require.Contains(t, theirs.stderr, "on 'ssh-ng://localhost", "the second machine builds without us, too")

	require.NotZero(t, ours.status)
	require.Equal(t, theirs.status, ours.status, "exit status\n%s\n%s", ours.stderr, theirs.stderr)
	require.Contains(t, ours.stderr, "last words")
	require.Equal(t, errorsOf(plain, theirs.stderr), errorsOf(r, ours.stderr))
}

// withoutHook has Nix's own build-remote choose among the one machine.
func (r *rig) withoutHook(t *testing.T) {
	r.config = r.config[:len(r.config)-1]
	r.config = append(r.config, "builders = "+r.line(t, "lease-1"))
}

// errorsOf are the lines about errors, without what differs from rig to rig.
func errorsOf(r *rig, stderr string) []string {
	var lines []string
	for line := range strings.Lines(stderr) {
		if strings.Contains(line, "error") {
			line = strings.ReplaceAll(line, r.dir, "DIR")
			lines = append(lines, regexp.MustCompile(`[0-9a-z]{32}-`).ReplaceAllString(line, ""))
		}
	}
	return lines
}

func TestTroubleWithTheCoordinatorLeavesTheBuildToNix(t *testing.T) {
	everywhere(t, nothing, func(t *testing.T, r *rig) {
		local := func(t *testing.T, name string) {
			t.Helper()
			got := r.build(t, name, r.whereScript(), "")
			require.Zero(t, got.status, got.stderr)
			require.Equal(t, "nix", r.read(t, got.stdout))
			t.Logf("%s: %v", name, got.took)
		}
		t.Run("missing", func(t *testing.T) { local(t, "missing") })
		t.Run("hangs", func(t *testing.T) {
			r.listen(t) // takes connections, says nothing
			local(t, "hangs")
		})
		t.Run("garbage", func(t *testing.T) {
			r.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, strings.Repeat("# accept\n", 100))
			}))
			local(t, "garbage")
		})
		t.Run("endless", func(t *testing.T) {
			r.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for {
					if _, err := io.WriteString(w, `{"verdict":"accept",`); err != nil {
						return
					}
				}
			}))
			local(t, "endless")
		})
		t.Run("dies", func(t *testing.T) {
			r.serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, `{"verdict":`)
				panic(http.ErrAbortHandler)
			}))
			local(t, "dies")
		})
		t.Run("error", func(t *testing.T) {
			r.coordinate(t, func(hook.Settings, *hook.Try) (*hook.Answer, error) { return nil, os.ErrPermission })
			local(t, "error")
		})
		t.Run("machine that is none", func(t *testing.T) {
			q := r.coordinate(t, func(hook.Settings, *hook.Try) (*hook.Answer, error) {
				return &hook.Answer{Verdict: hook.Accept, Line: "ssh-ng://localhost?remote-program=/no/such/program x86_64-linux - 1 1"}, nil
			})
			local(t, "machine")
			require.Len(t, q.all(), 1)
		})
	})
}

func TestWithoutCoordinatorThePlainMachinesBuild(t *testing.T) {
	prepare := func(r *rig) { r.config = append(r.config, "builders = "+r.line(t, "lease-1")) }
	everywhere(t, prepare, func(t *testing.T, r *rig) {
		got := r.build(t, "where", r.whereScript(), "")
		require.Zero(t, got.status, got.stderr)
		require.Equal(t, "builder", r.read(t, got.stdout))
		require.Contains(t, got.stderr, "on 'ssh-ng://localhost")
	})
}

func TestHookThatIsKilledLeavesNothingBehind(t *testing.T) {
	everywhere(t, nothing, func(t *testing.T, r *rig) {
		r.coordinate(t, r.accept(t))
		started := r.nix.Host(r.dir + "/started")
		script := "echo > " + r.dir + "/started; sleep 30; " + r.whereScript()
		done := make(chan result, 1)
		go func() { done <- r.build(t, "killed", script, "") }()
		require.Eventually(t, func() bool { _, err := os.Stat(started); return err == nil }, 30*time.Second, 20*time.Millisecond)
		hooks := r.processes(t, "nix-offload-hook")
		require.Len(t, hooks, 1)
		t.Logf("the hook's memory: %s", statusLine(t, hooks[0], "VmHWM"))
		process, err := os.FindProcess(hooks[0])
		require.NoError(t, err)
		require.NoError(t, process.Kill())
		got := <-done
		require.NotZero(t, got.status)
		require.Less(t, got.took, 25*time.Second, "the end of the hook is the end of the build")
		r.requireGone(t)

		got = r.build(t, "killed", r.whereScript()+"; : again", "")
		require.Zero(t, got.status, got.stderr)
		require.Equal(t, "builder", r.read(t, got.stdout))
	})
}

// TestCancelledBuildLeavesNothingBehind has the person at the client give up.
func TestCancelledBuildLeavesNothingBehind(t *testing.T) {
	everywhere(t, nothing, func(t *testing.T, r *rig) {
		r.coordinate(t, r.accept(t))
		started := r.nix.Host(r.dir + "/started")
		expr := fmt.Sprintf(`derivation { name = "cancelled"; system = builtins.currentSystem; builder = "/bin/sh";
			PATH = "/usr/bin:/bin"; args = [ "-c" "echo > %s/started; sleep 60" ]; }`, r.dir)
		client := r.command(t, "nix-build", "--no-out-link", "--expr", expr)
		require.NoError(t, client.Start())
		require.Eventually(t, func() bool { _, err := os.Stat(started); return err == nil }, 30*time.Second, 20*time.Millisecond)
		require.NoError(t, client.Process.Signal(os.Interrupt))
		require.Error(t, client.Wait())
		r.requireGone(t)
	})
}

// requireGone waits for the end of all that a hook has started.
func (r *rig) requireGone(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		return len(r.processes(t, "nix-offload-hook"))+len(r.processes(t, "build-remote"))+len(r.processes(t, "--stdio")) == 0
	}, 10*time.Second, 50*time.Millisecond, "processes that are left")
}

// processes lists those of the rig whose command line has a word.
func (r *rig) processes(t *testing.T, word string) (list []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, file := range files {
		command, _ := os.ReadFile(file)
		env, _ := os.ReadFile(filepath.Dir(file) + "/environ")
		if strings.Contains(string(command), word) && strings.Contains(string(env), r.dir) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			require.NoError(t, err)
			list = append(list, pid)
		}
	}
	return list
}

func statusLine(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
