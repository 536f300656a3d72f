// Package program is what the kit's programs have in common as programs.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// UsageError is an error about how a program was called.
type UsageError struct{ error }

// Misuse makes an error about how a program was called.
func Misuse(err error) error { return UsageError{err} }

// Parse reads flags. What it does not understand is a [UsageError]; asked for help it returns [flag.ErrHelp].
func Parse(set *flag.FlagSet, args []string) error {
	err := set.Parse(args)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return err
	}
	return Misuse(err)
}

// Main calls run with the process's arguments, until it is interrupted, and exits: with 0 if all went well or help was
// asked for, with 2 after a [UsageError], and with 1 after any other error, which it prints.
func Main(name string, run func(ctx context.Context, args []string, stdout, stderr io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	if _, misuse := errors.AsType[UsageError](err); misuse {
		os.Exit(2)
	}
	os.Exit(1)
}
