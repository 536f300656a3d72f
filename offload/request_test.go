package offload_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload"
)

func TestClassify(t *testing.T) {
	known := offload.Estimate{Source: offload.SourceMachine, Samples: 5, P50: 20, P90: 40, MemoryP90: 1 << 30}
	short, long, large := known, known, known
	short.P90, long.P90, large.MemoryP90 = 2, 100, 5<<30
	few := long
	few.Samples = 2
	tests := []struct {
		name     string
		request  offload.Request
		estimate offload.Estimate
		class    offload.Class
		signs    []offload.Sign
	}{
		{"nothing known", offload.Request{}, offload.Estimate{}, offload.Ordinary, nil},
		{"prefers local", offload.Request{PreferLocal: true}, offload.Estimate{}, offload.Trivial, []offload.Sign{offload.SignPreferLocal}},
		{"builtin fetch", offload.Request{Builder: "builtin:fetchurl", Fixed: &offload.FixedOutput{}}, long, offload.Trivial, []offload.Sign{offload.SignFixedOutput, offload.SignBuiltin}},
		{"no substitutes", offload.Request{NoSubstitutes: true}, offload.Estimate{}, offload.Trivial, []offload.Sign{offload.SignNoSubstitutes}},
		{"no substitutes, a compiler", offload.Request{NoSubstitutes: true, Toolchains: []string{"cc"}}, offload.Estimate{}, offload.Ordinary, nil},
		{"big-parallel and kvm", offload.Request{Features: []string{"big-parallel", "kvm", "nixos-test"}}, offload.Estimate{}, offload.Heavy, []offload.Sign{offload.SignBigParallel, offload.SignVirtualMachine}},
		{"rust", offload.Request{Toolchains: []string{"cc", "rust"}}, offload.Estimate{}, offload.Heavy, []offload.Sign{offload.SignToolchain}},
		{"many inputs", offload.Request{InputDrvs: 101}, offload.Estimate{}, offload.Heavy, []offload.Sign{offload.SignManyInputs}},
		{"history over labels", offload.Request{Features: []string{"big-parallel"}}, known, offload.Ordinary, nil},
		{"short by history", offload.Request{Toolchains: []string{"rust"}}, short, offload.Trivial, []offload.Sign{offload.SignShort}},
		{"long by history", offload.Request{}, long, offload.Heavy, []offload.Sign{offload.SignLong}},
		{"large by history", offload.Request{}, large, offload.Heavy, []offload.Sign{offload.SignMemory}},
		{"too few builds", offload.Request{}, few, offload.Ordinary, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			class, signs := tt.request.Classify(tt.estimate, 16<<30)
			require.Equal(t, tt.class, class)
			require.Equal(t, tt.signs, signs)
		})
	}
}

func TestPriorGrowsWithTheLabel(t *testing.T) {
	requests := []offload.Request{
		{PreferLocal: true},
		{},
		{Toolchains: []string{"cc"}},
		{Toolchains: []string{"cc", "cmake"}},
		{Toolchains: []string{"cc", "rust"}},
		{Features: []string{"big-parallel"}, Toolchains: []string{"cc"}},
	}
	labels := []string{"trivial", "", "cc", "cmake", "rust", "big-parallel"}
	last := 0.0
	for i, r := range requests {
		require.Equal(t, labels[i], r.Label())
		e := r.Prior()
		require.Greater(t, e.P50, last, r.Label())
		require.Greater(t, e.P90, e.P50)
		require.Greater(t, e.MemoryP90, e.MemoryP50)
		last = e.P50
	}
}
