// Conform checks whether a server of a Nix binary cache, anybody's, does what clients rely on.
//
// Run it in the repository: go run ./bench/conform URL. docs/benchmarks.md says more.
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
		fmt.Fprintln(os.Stderr, "conform:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "conform:", err)
		os.Exit(1)
	}
}
