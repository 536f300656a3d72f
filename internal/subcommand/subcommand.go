// Package subcommand is how the programs of this project take their command lines: a program has commands of one word or
// two, each with flags, help with examples, and errors that come with advice.
//
// [Program.Run] runs a command line. "help" and "version" are commands of every program, as are the flags --help and
// --version. Flags may stand before, between and after a command's words. Results go to stdout; an error is returned, for
// main to show as [Message] has it and to exit with [ExitStatus].
package subcommand

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
)

// Command is one of a program's commands.
type Command struct {
	Name  string // one word or two
	Args  string // as its usage shows them
	Short string // one line
	Long  string // the rest of its help: explanation and examples
	// Run runs it on the arguments after its name. Asked for help it returns flag.ErrHelp, as [Command.Parse] does.
	Run func(ctx context.Context, cmd *Command, args []string) error
	// Invocation is how it is called, if not by the program's name and its own.
	Invocation string

	program *Program
}

// Program is a program with commands. It is not to be changed once it runs.
type Program struct {
	// Name is what the program is called.
	Name string
	// About is the first line of its help.
	About string
	// Default is the command that runs if none is named. Empty has the list of commands shown.
	Default string
	// Commands are all but help and version, in the order of the help.
	Commands []*Command
	// Stdout takes results and help.
	Stdout io.Writer
}

// Run runs the command that args begin with.
func (p *Program) Run(ctx context.Context, args []string) error {
	switch {
	case len(args) > 0 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help"):
		args = []string{"help"}
	case len(args) > 0 && (args[0] == "-version" || args[0] == "--version"):
		args = []string{"version"}
	case p.Default != "" && (len(args) == 0 || strings.HasPrefix(args[0], "-")):
		args = append([]string{p.Default}, args...)
	case len(args) == 0:
		return Usage(Hint(errors.New("no command"), p.Name+" help lists the commands"))
	}
	cmd, rest := p.find(args)
	if cmd == nil {
		return Usage(Hint(fmt.Errorf("no command %q", strings.Join(args[:min(2, len(args))], " ")),
			p.Name+" help lists the commands"))
	}
	return p.RunCommand(ctx, cmd, rest)
}

// RunCommand runs a command, which need not be among the program's. Help that was asked for is a success.
func (p *Program) RunCommand(ctx context.Context, cmd *Command, args []string) error {
	cmd.program = p
	err := cmd.Run(ctx, cmd, args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	return err
}

func (p *Program) commands() []*Command {
	all := append(p.Commands[:len(p.Commands):len(p.Commands)],
		&Command{Name: "version", Short: "print the version", Run: p.runVersion},
		&Command{Name: "help", Args: "[COMMAND]", Short: "explain a command", Run: p.runHelp})
	for _, cmd := range all {
		cmd.program = p
	}
	return all
}

// find returns the command that args begin with and the arguments after its name.
func (p *Program) find(args []string) (*Command, []string) {
	for _, cmd := range p.commands() {
		words := strings.Fields(cmd.Name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == cmd.Name {
			return cmd, args[len(words):]
		}
	}
	return nil, nil
}

// FlagSet is an empty set of flags for the command. It prints nothing by itself.
func (c *Command) FlagSet() *flag.FlagSet {
	set := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	return set
}

// Parse reads flags, and returns the words between them. Asked for help it prints it and returns flag.ErrHelp.
func (c *Command) Parse(set *flag.FlagSet, args []string) (words []string, err error) {
	for {
		err := set.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			c.printHelp(set)
			return nil, err
		}
		if err != nil {
			return nil, c.Misuse(doubleDashes(err.Error()))
		}
		rest := set.Args()
		ended := len(rest) < len(args) && args[len(args)-len(rest)-1] == "--"
		if len(rest) == 0 || ended {
			return append(words, rest...), nil
		}
		words, args = append(words, rest[0]), rest[1:]
	}
}

// doubleDashes writes flags in the flag package's messages as we do: "… for flag -x: …", "… not defined: -x".
func doubleDashes(message string) string {
	two := strings.NewReplacer("flag -", "flag --", "defined: -", "defined: --", "argument: -", "argument: --")
	return two.Replace(message)
}

// Misuse is an error about how the command was called.
func (c *Command) Misuse(what string) error {
	return Usage(Hint(fmt.Errorf("%s: %s", c.Name, what),
		fmt.Sprintf("usage: %s (see: %s --help)", c.usage(), c.invocation())))
}

// invocation is how the command is called.
func (c *Command) invocation() string {
	if c.Invocation != "" {
		return c.Invocation
	}
	return c.program.Name + " " + c.Name
}

func (c *Command) usage() string { return strings.TrimSpace(c.invocation() + " " + c.Args) }

func (c *Command) printHelp(set *flag.FlagSet) {
	w := c.program.Stdout
	fmt.Fprintf(w, "%s: %s\n\nUsage: %s\n", c.invocation(), c.Short, c.usage())
	if c.Long != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(c.Long))
	}
	printFlags(w, set)
}

// printFlags lists a set's flags in order of their names.
func printFlags(w io.Writer, set *flag.FlagSet) {
	heading := "\nFlags:\n"
	set.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		fmt.Fprintf(w, "%s  --%s\n        %s\n", heading, strings.TrimSpace(f.Name+" "+value), usage)
		heading = ""
	})
}

// runHelp prints the list of commands or, given one, its help.
func (p *Program) runHelp(ctx context.Context, cmd *Command, args []string) error {
	if len(args) == 0 {
		fmt.Fprintf(p.Stdout, "%s\n\nCommands:\n", p.About)
		for _, c := range p.commands() {
			fmt.Fprintf(p.Stdout, "  %-15s %s\n", c.Name, c.Short)
		}
		fmt.Fprintf(p.Stdout, "\n%s help COMMAND explains one, with its flags and examples.\n", p.Name)
		return nil
	}
	other, rest := p.find(args)
	if other == nil || len(rest) > 0 {
		return cmd.Misuse(fmt.Sprintf("there is no command %q", strings.Join(args, " ")))
	}
	if other.Name == cmd.Name {
		return p.runHelp(ctx, cmd, nil)
	}
	return other.Run(ctx, other, []string{"--help"})
}

func (p *Program) runVersion(_ context.Context, cmd *Command, args []string) error {
	words, err := cmd.Parse(cmd.FlagSet(), args)
	if err != nil {
		return err
	}
	if len(words) > 0 {
		return cmd.Misuse("takes no arguments")
	}
	_, err = fmt.Fprintf(p.Stdout, "%s %s (%s, %s/%s)\n", p.Name, Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// Version is the module's version, "unknown" where the build knows none.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
