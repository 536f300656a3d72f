// Nix-offload decides where Nix builds, in place of the list of machines and the formula that Nix has of its own.
//
// Nix starts `nix-offload hook` as its build-hook for each build that may go elsewhere, and unmodified Nix does what is
// done to the local store. Called as nix-offload-hook it is that hook without arguments, for Nix 2.8.
//
// Run `nix-offload help` for its commands.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/voidnxlab/nixtrap/internal/subcommand"
)

func main() {
	err := run(context.Background(), os.Args, os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	if text := message(err); text != "" {
		fmt.Fprintln(os.Stderr, text)
	}
	os.Exit(exitStatus(err))
}

// run is the program. args[0] is the name that it was called by, env has the form of os.Environ.
func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) error {
	p := &process{called: called(args), env: parseEnviron(env), stdin: stdin, stdout: stdout, stderr: stderr}
	program := p.program()
	switch name := filepath.Base(p.called); {
	case name == hookName:
		return program.RunCommand(ctx, p.hookAlone(), args[1:])
	case name == shimName || isLease(name):
		return program.RunCommand(ctx, p.shimAlone(), args[1:])
	}
	return program.Run(ctx, args[1:])
}

// program is the list of commands.
func (p *process) program() *subcommand.Program {
	return &subcommand.Program{
		Name:   programName,
		About:  "nix-offload decides where Nix builds.",
		Stdout: p.stdout,
		Commands: []*subcommand.Command{
			{Name: "coordinator", Args: "[flags]", Short: "decide, and keep the connections to builders", Long: coordinatorHelp, Run: p.runCoordinator},
			{Name: "status", Args: "[flags]", Short: "show what runs where", Run: p.runStatus},
			{Name: "explain", Args: "[flags] [DRV]", Short: "show why a build went where it went", Long: explainHelp, Run: p.runExplain},
			{Name: "doctor", Args: "[flags]", Short: "find out what is wrong, here and on builders", Long: doctorHelp, Run: p.runDoctor},
			{Name: "machines", Args: "[flags]", Short: "list the builders with all that is known of them, as JSON", Run: p.runMachines},
			{Name: "mode", Args: "[flags] auto|local|remote", Short: "say where builds may go, for a time", Long: modeHelp, Run: p.runMode},
			{Name: "drain", Args: "[flags] MACHINE", Short: "give a builder no more builds, for a time", Run: p.runDrain},
			{Name: "resume", Args: "[flags] MACHINE", Short: "give a builder builds again", Run: p.runResume},
			{Name: "hook", Args: "[flags] VERBOSITY", Short: "answer Nix as its build-hook", Long: hookHelp, Run: p.runHook},
			{Name: "shim", Args: "[flags] [--stdio]", Short: "answer Nix in a builder's place", Long: shimHelp, Run: p.runShim},
		},
	}
}
