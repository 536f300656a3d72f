// Shootout measures Nix binary cache servers side by side: narserved, nginx over flat caches, and others that one has.
//
// Run it in the repository: go run ./bench/shootout. docs/benchmarks.md says what is measured, and how to read it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	var misuse usageError
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.As(err, &misuse):
		fmt.Fprintln(os.Stderr, "shootout:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "shootout:", err)
		os.Exit(1)
	}
}
