// Command hook is a build hook for Nix: what requires the feature big-parallel goes to the one machine in $BIG, a line as
// in /etc/nix/machines, and all else is left to plain Nix.
//
//	BIG='ssh-ng://big.example.org x86_64-linux - 8 1 big-parallel' nix-build --option build-hook "$(command -v hook)"
package main

import (
	"context"
	"os"
	"slices"

	"github.com/voidnxlab/nixtrap/offload/hook"
)

type byFeature struct{ line string }

func (b byFeature) Decide(_ context.Context, _ hook.Settings, try *hook.Try) (*hook.Answer, error) {
	if slices.Contains(try.Features, "big-parallel") {
		return &hook.Answer{Verdict: hook.Accept, Line: b.line}, nil
	}
	return &hook.Answer{Verdict: hook.Plain}, nil
}

func main() {
	log, reader := hook.LogFiles()
	status, _ := hook.Serve(context.Background(), os.Stdin, os.Stderr, &hook.Options{
		Decider: byFeature{os.Getenv("BIG")},
		Stock:   hook.Stock{Verbosity: os.Args[len(os.Args)-1], Log: log, LogReader: reader},
	})
	os.Exit(status)
}
