package main

import (
	"flag"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload"
)

func TestConfigSetsWhatTheCommandLineDoesNot(t *testing.T) {
	set := flag.NewFlagSet("", flag.ContinueOnError)
	mode, jobs := set.String("mode", "auto", ""), set.Int("max-jobs", 1, "")
	require.NoError(t, set.Parse([]string{"--mode", "local"}))
	var policy offload.Policy
	require.NoError(t, parseConfig(`
mode = "remote"
max-jobs = 8
[policy]
send-trivial = true
patience = "5m"
max-io = 60
memory-reserve = 8_000_000_000
heavy-here = -1
`, set, &policy))
	require.Equal(t, "local", *mode)
	require.Equal(t, 8, *jobs)
	require.Equal(t, offload.Policy{SendTrivial: true, Patience: 5 * time.Minute, MaxIO: 60, MemoryReserve: 8e9, HeavyHere: -1}, policy)
}

func TestConfigRefuses(t *testing.T) {
	for text, why := range map[string]string{
		"mode = ":                       "line 1",
		"modes = \"auto\"":              `unknown key "modes"`,
		"config = \"x\"":                `unknown key "config"`,
		"Mode = \"auto\"":               `unknown key "Mode"`,
		"max-jobs = \"many\"":           "max-jobs: parse error",
		"[policy]\nmax-cpus = 3":        `unknown key "policy.max-cpus"`,
		"[policy]\nMax-CPU = 3":         `unknown key "policy.Max-CPU": keys are in lower case`,
		"[policy]\npatience = 30":       "policy.patience is a time with its unit",
		"[policy]\npatience = \"soon\"": "soon",
		"[policy]\nmin-disk = \"2GiB\"": "min-disk",
		"[policy]\nmode = \"remote\"":   `unknown key "policy.mode"`,
		"policy = 3":                    "policy",
	} {
		set := flag.NewFlagSet("", flag.ContinueOnError)
		set.String("mode", "auto", "")
		set.Int("max-jobs", 1, "")
		require.ErrorContains(t, parseConfig(text, set, new(offload.Policy)), why, text)
	}
}
