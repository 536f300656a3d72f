package main_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/buildertest"
	"github.com/voidnxlab/nixtrap/internal/realnix"
)

// forty are forty derivations of every kind, some of which fail, and two that need what fails.
const forty = `{ tag, ca }: let
  make = name: script: more: derivation ({
    name = "${tag}-${name}"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
    args = [ "-c" "echo log of ${name} begins >&2; ${script}; code=$?; echo log of ${name} ends >&2; exit $code" ];
    source = builtins.toFile "source" "${tag} ${name}";
  } // more);
  count = n: f: builtins.genList f n;
  n = toString;
  trivial = count 12 (i: make "trivial${n i}" "echo ${n i} > $out" {});
  heavy = count 5 (i: make "heavy${n i}" "i=0; while test $i -lt 20000; do i=$((i+1)); done; cat $source > $out"
    { enableParallelBuilding = true; inputs = [ (builtins.elemAt trivial i) ]; });
  failing = count 3 (i: make "failing${n i}" "echo about to fail >&2; exit ${n (i + 3)}" {});
  needy = count 2 (i: make "needy${n i}" "echo never > $out" { inputs = [ (builtins.elemAt failing i) ]; });
  fixed = count 4 (i: make "fixed${n i}" "printf ${n i} > $out"
    { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" (n i); });
  wrong = [ (make "wrong" "printf other > $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "x"; }) ];
  featured = count 3 (i: make "featured${n i}" "echo ${n i} > $out" { requiredSystemFeatures = [ "big" ]; });
  several = count 3 (i: make "several${n i}" "echo $dev > $out; mkdir $dev; echo dev > $dev/file; ln -s $out $doc"
    { outputs = [ "out" "dev" "doc" ]; });
  structured = count 3 (i: make "structured${n i}" ". $NIX_ATTRS_SH_FILE; echo $key > $(test -n \"$out\" && echo $out || echo \${outputs[out]})"
    { __structuredAttrs = true; key = "value ${n i}"; builder = "/bin/bash"; });
  addressed = if ca then count 3 (i: make "addressed${n i}" "echo ${n i} > $out"
    { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }) else count 3 (i: make "plain${n i}" "echo ${n i} > $out" {});
  good = trivial ++ heavy ++ fixed ++ featured ++ several ++ structured ++ addressed;
in {
  all = good ++ failing ++ needy ++ wrong ++ [ (make "top" "cat $inputs > $out" { inputs = heavy ++ addressed; }) ];
}`

// outcome is what a client has of a graph after it was built: what does not depend on who built it.
type outcome struct {
	status  int
	outputs map[string]string // hash and size by name; "" for what is not there
	logs    map[string]string // by derivation
	errors  []string          // what was said of failures
}

// onMachine is what Nix calls a builder: a machine's address, or our shim's.
var onMachine = regexp.MustCompile(`on 'ssh[^']*'`)

// graphOf builds the forty derivations and says how that went.
func graphOf(t *testing.T, c *buildertest.Client, tag string, ca bool) *outcome {
	t.Helper()
	args := []string{c.WriteFile(t, "forty.nix", forty, 0o644), "-A", "all", "--argstr", "tag", tag, "--arg", "ca", fmt.Sprint(ca)}
	drvs := strings.Fields(c.Run(t, "nix-instantiate", args...))
	require.Len(t, drvs, 40)
	cmd := c.Command(t, "nix-build", append(args, "--keep-going", "--no-out-link")...)
	text, err := cmd.CombinedOutput()
	require.Error(t, err, "some fail")
	o := &outcome{status: cmd.ProcessState.ExitCode(), outputs: make(map[string]string), logs: make(map[string]string)}
	for _, drv := range drvs {
		drv, _, _ = strings.Cut(drv, "!")
		log, err := c.Command(t, "nix-store", "--read-log", drv).Output()
		if err != nil {
			log = []byte("none")
		}
		o.logs[drv[44:]] = string(log)
		outputs, err := c.Command(t, "nix-store", "--query", "--outputs", drv).Output()
		if err != nil { // content-addressed, and not built
			o.outputs[drv[44:]] = ""
		}
		for _, out := range strings.Fields(string(outputs)) {
			hash, err := c.Command(t, "nix-store", "--query", "--hash", out).Output()
			if err != nil {
				hash = nil
			}
			o.outputs[out] = strings.TrimSpace(string(hash))
		}
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if strings.Contains(line, "failed") || strings.Contains(line, "hash mismatch") || strings.Contains(line, "exit code") {
			o.errors = append(o.errors, onMachine.ReplaceAllString(strings.TrimSpace(line), "on a machine"))
		}
	}
	slices.Sort(o.errors)
	o.errors = slices.Compact(o.errors)
	for name, log := range o.logs {
		if log != "none" {
			require.Contains(t, string(text), "log of "+strings.TrimSuffix(name[len(tag)+1:], ".drv")+" begins", "it is shown while it is built")
		}
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
	return o
}

// Whatever a graph has in it, it ends with our hook as it ends with plain Nix: nine pairs of releases take some three
// minutes.
func TestAGraphEndsAsItDoesWithPlainNix(t *testing.T) {
	if os.Getenv("NIXTRAP_SOAK") == "" {
		t.Skip("NIXTRAP_SOAK is not set")
	}
	for _, release := range realnix.Releases() {
		for _, client := range realnix.Releases() {
			t.Run(fmt.Sprintf("%s on %s", client, release), func(t *testing.T) {
				theirs, ours := quietBuilder(t, release), quietBuilder(t, release)
				plain := buildertest.NewClient(t, &buildertest.ClientOptions{Release: client})
				line := buildertest.Machine{Builder: theirs, Jobs: 4, Rest: rest}
				plain.SetConf(t, "max-jobs = 0\nbuild-poll-interval = 1\nbuilders = "+plain.Line(t, line))
				f := newOffice(t, &buildertest.ClientOptions{Release: client}, ours)
				want := graphOf(t, plain, "graph", true)
				got := graphOf(t, f.Client, "graph", true)
				require.Equal(t, want, got)
			})
		}
	}
}
