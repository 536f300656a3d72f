package offload_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload"
)

func decision() *offload.Decision {
	a := ask(func(a *offload.Ask) {
		a.Request.Name, a.Request.DrvPath = "hello-2.12.1", "/nix/store/00000000000000000000000000000000-hello-2.12.1.drv"
		a.Request.Features = []string{"kvm"}
	})
	c := offload.Pick(a, []offload.Candidate{
		here(func(c *offload.Candidate) { c.Readings = offload.Readings{} }),
		builder("big"),
		builder("arm", func(c *offload.Candidate) { c.Machine.Systems = []string{"aarch64-linux"} }),
	}, nil)
	d := offload.NewDecision(a, &c)
	d.Outcome = &offload.Outcome{When: now, Result: offload.Built, Machine: "big", Seconds: 97}
	return d
}

func TestADecisionIsReadBack(t *testing.T) {
	d := decision()
	text, err := json.Marshal(d)
	require.NoError(t, err)
	var again offload.Decision
	require.NoError(t, json.Unmarshal(text, &again))
	second, err := json.Marshal(&again)
	require.NoError(t, err)
	require.JSONEq(t, string(text), string(second))
	require.Equal(t, d.Line(), again.Line())
}

func TestADecisionIsALine(t *testing.T) {
	require.Equal(t,
		"hello-2.12.1: goes to big (cheapest); big 101 s (send 1.0, build 100.0); here 180 s (build 100.0, heavy-here 50.0, unknown 30.0); arm wrong-system",
		decision().Line())
	d := decision()
	d.Request.Name = "a\n\x1b[31m@nix {}" + strings.Repeat("é", 500)
	line := d.Line()
	require.LessOrEqual(t, len(line), 400)
	require.False(t, strings.ContainsFunc(line, unicode.IsControl), line)
}

func TestADecisionIsATable(t *testing.T) {
	var b strings.Builder
	require.NoError(t, decision().WriteTable(&b))
	require.Equal(t, `derivation  /nix/store/00000000000000000000000000000000-hello-2.12.1.drv
asked       2026-11-25 12:00:00 UTC, system x86_64-linux, features kvm
nix         willing to build here, asked since 0 s
kind        heavy (history-long)
mode        auto
answer      goes to big (cheapest)
outcome     built on big after 97 s

MACHINE  COST   EXPECTED BUILD                                         WHY
big      101 s  100 s, 9 in 10 below 200 s (5 builds, other-machines)  send 1.0 + build 100.0
here     180 s  100 s, 9 in 10 below 200 s (5 builds, other-machines)  build 100.0 + heavy-here 50.0 + unknown 30.0 (unknown: load, memory, disk)
arm      -      100 s, 9 in 10 below 200 s (5 builds, other-machines)  does not build for this system: wanted x86_64-linux [kvm], has [aarch64-linux] [kvm big-parallel], mandatory []
`, b.String())
}
