package machines_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/machines"
)

// Nix's own hook is asked for a system that nobody has. It prints a table of the machines that it read, in colours.
var tableRow = regexp.MustCompile(strings.NewReplacer("<", `\[?\\u001b\[35;1m([^\\]*)`, ">", `\\u001b\[0m\]?`).Replace(`\(<>, <>, <>, <>\)`))

// stockHook lets Nix's build-remote choose among the builders, and returns all that it printed.
func stockHook(t *testing.T, nix realnix.Nix, builders, system string, features []string, env ...string) string {
	t.Helper()
	var cmd *exec.Cmd
	if nix.Release == "2.8" {
		cmd = nix.Command(t, "../libexec/nix/build-remote", "3")
	} else {
		cmd = nix.Command(t, "nix", "__build-remote", "3")
	}
	state := nix.TempDir(t)
	cmd.Env = append(cmd.Env, "NIX_STATE_DIR="+state)
	cmd.Env = append(cmd.Env, env...)
	var in bytes.Buffer
	number := func(n uint64) { _ = binary.Write(&in, binary.LittleEndian, n) }
	text := func(s string) {
		number(uint64(len(s)))
		in.WriteString(s + strings.Repeat("\x00", (8-len(s)%8)%8))
	}
	for _, setting := range [][2]string{{"builders", builders}, {"store", "dummy://"}} {
		number(1)
		text(setting[0])
		text(setting[1])
	}
	number(0)
	text("try")
	number(0) // Nix is not willing: a warning rather than a whisper
	text(system)
	text("/nix/store/00000000000000000000000000000000-x.drv")
	number(uint64(len(features)))
	for _, f := range features {
		text(f)
	}
	cmd.Stdin = &in
	logRead, logWrite, err := os.Pipe() // a hook has the builder's log as 4, and reads as 5 what ssh says there
	require.NoError(t, err)
	defer logRead.Close()
	defer logWrite.Close()
	cmd.ExtraFiles = []*os.File{logWrite, logWrite, logRead}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run() // it may fail over the builders
	return out.String()
}

var nixTable = []struct{ name, builders string }{
	{"bare host", "big"},
	{"user and host", "nix@big x86_64-linux"},
	{"all columns", "ssh-ng://nix@big x86_64-linux,i686-linux /key 8 2 kvm,big-parallel gpu c3NoLWVkMjU1MTkgQUFBQQ=="},
	{"defaults", "big - - - - - - -"},
	{"nine columns", "big - - - - - - - more"},
	{"two lines", "a x86_64-linux - 1\nb aarch64-linux - 2"},
	{"semicolon", "a x86_64-linux - 1;b aarch64-linux - 2"},
	{"semicolons and blanks", "a x86_64-linux - 1 ; b aarch64-linux - 2 ;c"},
	{"comment", "a x86_64-linux - 3 # fast\n# all\nb - - 4"},
	{"tabs and carriage returns", "a\tx86_64-linux\t-\t3\r\nb\t-\t-\t4\r"},
	{"empty list items", "a ,x86_64-linux,,i686-linux, - 1 1 ,kvm, ,"},
	{"features twice", "a - - 1 1 kvm,kvm,a"},
	{"no such file", "@/no/such/file\na - - 7"},
	{"zero jobs", "a - - 0"},
	{"zero speed", "a - - 1 0"},
	{"plus sign", "a - - +3"},
	{"jobs not a number", "a - - many"},
	{"jobs negative", "a - - -1"},
	{"jobs a fraction", "a - - 1.5"},
	{"speed not a number", "a - - 1 fast"},
	{"no store", "- x86_64-linux"},
	{"host key not base64", "a - - 1 1 - - c3No*"},
	{"host key without padding", "a - - 1 1 - - c3NoLWVkMjU1MTkgQUFBQQ"},
	{"parameters", "ssh-ng://a?remote-program=/bin/x&compress=true - - 5"},
}

func TestMachinesAreThoseThatRealNixReads(t *testing.T) {
	for _, nix := range realnix.All(t) {
		for _, tt := range nixTable {
			t.Run(nix.Release+"/"+tt.name, func(t *testing.T) { requireSameMachines(t, nix, tt.builders) })
		}
		for _, builders := range newer[nix.Release] {
			t.Run(nix.Release+"/"+builders, func(t *testing.T) { requireSameMachines(t, nix, builders) })
		}
	}
}

// newer has what the releases before read otherwise: 2.8 takes whole speed factors alone,
// and until after 2.26 a semicolon ends a comment, @ begins a line, and a line of blanks is a machine without a store.
var newer = map[string][]string{
	"2.26": {"a - - 1 2.5", "a - - 1 1e1", "a - - 1 -1"},
	"2.34": {
		"a - - 1 2.5", "a - - 1 1e1", "a - - 1 -1",
		"a - - 1 # b; c\nd", "a - - 1; @/no/such/file", "  # all\n  ;\na",
	},
}

func requireSameMachines(t *testing.T, nix realnix.Nix, builders string) {
	t.Helper()
	out := stockHook(t, nix, builders, "nosuch-system", nil)
	ours, err := machines.Parse(builders, &machines.Options{System: "x86_64-linux"})
	if !strings.Contains(out, "# decline") {
		require.Error(t, err, "Nix says: %s", out)
		return
	}
	require.NoError(t, err, "Nix says: %s", out)
	var want, got []string
	for _, row := range tableRow.FindAllStringSubmatch(out, -1) {
		systems := strings.Split(row[1], ", ")
		slices.Sort(systems) // a set in new releases
		want = append(want, fmt.Sprintf("%v %s [%s] [%s]", systems, row[2], row[3], row[4]))
	}
	for _, m := range ours {
		systems := slices.Sorted(slices.Values(m.Systems))
		got = append(got, fmt.Sprintf("%v %d [%s] [%s]", systems, m.MaxJobs, strings.Join(m.Features, ", "), strings.Join(m.MandatoryFeatures, ", ")))
	}
	require.Equal(t, want, got, "Nix says: %s", out)
}

// A program in the place of ssh sees how Nix would reach the machine.
func TestRealNixReachesTheMachineThatWeName(t *testing.T) {
	for _, nix := range realnix.All(t) {
		for _, builders := range []string{"big", "nix@big", "ssh://big", "ssh-ng://nix@big", "ssh-ng://nix@big?ssh-key=/k", "big - /key"} {
			t.Run(nix.Release+"/"+builders, func(t *testing.T) {
				dir := nix.TempDir(t)
				script := "#!/bin/sh\necho \"$0 $*\" >>" + dir + "/args\nexit 1\n"
				require.NoError(t, os.WriteFile(filepath.Join(nix.Host(dir), "ssh"), []byte(script), 0o755))
				out := stockHook(t, nix, builders, "x86_64-linux", nil, "PATH="+dir+":/usr/bin:/bin")
				args, err := os.ReadFile(nix.Host(dir + "/args"))
				require.NoError(t, err, "Nix says: %s", out)
				ours, err := machines.Parse(builders, &machines.Options{System: "x86_64-linux"})
				require.NoError(t, err)
				require.Len(t, ours, 1)
				target := ours[0].Host
				if ours[0].User != "" {
					target = ours[0].User + "@" + target
				}
				require.Contains(t, strings.Fields(string(args)), target)
				if ours[0].Identity != "" {
					require.Contains(t, string(args), "-i "+ours[0].Identity)
				}
				program := map[string]string{"ssh": "nix-store --serve", "ssh-ng": "nix-daemon --stdio"}[ours[0].Scheme]
				require.Contains(t, string(args), program)
			})
		}
	}
}

func TestRealNixReadsOurLines(t *testing.T) {
	m := offload.Machine{
		Name: "big", Scheme: "ssh-ng", Host: "big", Systems: []string{"x86_64-linux", "i686-linux"}, MaxJobs: 6, SpeedFactor: 2,
		Features: []string{"big-parallel", "kvm"}, MandatoryFeatures: []string{"gpu"},
		HostKey: "ssh-ed25519 AAAA", RemoteProgram: []string{"/bin/a b"}, Params: map[string]string{"compress": "true"},
	}
	line, err := machines.Format(&m)
	require.NoError(t, err)
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) { requireSameMachines(t, nix, line) })
	}
}
