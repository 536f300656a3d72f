// Command offload decides where a long build goes: to this busy machine, or to a builder that lacks 300 MB of inputs.
package main

import (
	"fmt"
	"time"

	"github.com/voidnxlab/nixtrap/offload"
)

func main() {
	now := time.Now()
	systems := []string{"x86_64-linux"}
	estimate := offload.Estimate{Source: offload.SourceOthers, Samples: 8, P50: 240, P90: 400, MemoryP90: 3 << 30, MemorySamples: 8}
	choice := offload.Pick(
		&offload.Ask{
			Request: &offload.Request{Name: "firefox-140.0", Stem: "firefox", System: "x86_64-linux"},
			Willing: true,
			Now:     now,
		},
		[]offload.Candidate{
			{
				Machine:  &offload.Machine{Name: "here", Local: true, Systems: systems, MaxJobs: 2},
				Readings: offload.Readings{At: now, Load1: new(3.5), Cores: new(4), MemoryAvailable: new(int64(6 << 30))},
				Estimate: estimate,
			},
			{
				Machine:      &offload.Machine{Name: "big", Scheme: "ssh-ng", Host: "big", Systems: systems, MaxJobs: 8},
				Readings:     offload.Readings{At: now, Load1: new(1.0), Cores: new(32), MemoryAvailable: new(int64(60 << 30))},
				MissingBytes: new(int64(300e6)),
				Bandwidth:    30e6,
				Estimate:     estimate,
			},
		},
		nil,
	)
	fmt.Println(choice.Verdict, choice.Machine)
	for _, r := range choice.Ranking {
		fmt.Printf("%s: %.0f s, of %v\n", r.Machine, r.Cost, r.Terms)
	}
}
