// Narserved serves a Nix store, or a directory with a binary cache, to every Nix that can reach it.
//
// Without arguments it serves this machine's store on 127.0.0.1:5000, signed with a key that it makes at first start.
// Called as nix-serve it takes that program's flags instead, so that it can stand in for it.
//
// Run `narserved help` for its commands. docs/operations.md is the operator's guide, and [Config] the reference of the
// configuration file.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
)

func main() {
	err := run(context.Background(), os.Args, os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, message(err))
	}
	os.Exit(exitStatus(err))
}

// run is the program. args[0] is the name that it was called by, env has the form of os.Environ.
// It returns when the command is done; cancelling ctx asks a server to drain, as SIGTERM does.
func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) error {
	p := &process{args: args, env: parseEnviron(env), stdin: stdin, stdout: stdout, stderr: stderr}
	if p.name() == "nix-serve" {
		return p.runNixServe(ctx, args[1:])
	}
	if p.name() == hookName {
		return p.runCommand(ctx, append([]string{"post-build-hook"}, args[1:]...))
	}
	return p.runCommand(ctx, args[1:])
}
