package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
)

// command is one of narserved's commands.
type command struct {
	name  string // one word or two
	args  string // as its usage shows them
	short string // one line
	long  string // the rest of its help: explanation and examples
	run   func(ctx context.Context, cmd *command, args []string) error
}

func (p *process) commands() []*command {
	return []*command{
		{"serve", "[flags]", "serve a Nix store (the default command)", serveHelp, p.runServe},
		{"query", "KIND [flags] [PATH…]", "ask a store what it knows", queryHelp, p.runQuery},
		{"push", "--to URL [flags] PATH…", "push paths to a cache, with all that they need", pushHelp, p.runPush},
		{"post-build-hook", "[flags]", "queue what Nix has built for pushing", postBuildHookHelp, p.runPostBuildHook},
		{"key generate", "NAME [flags]", "make a signing key", keyGenerateHelp, p.runKeyGenerate},
		{"key public", "FILE", "print a signing key's public half", keyPublicHelp, p.runKeyPublic},
		{"token create", "--name NAME --scope SCOPE [flags]", "make a token", tokenCreateHelp, p.runTokenCreate},
		{"token list", "[flags]", "list the tokens", tokenListHelp, p.runTokenList},
		{"token revoke", "ID [flags]", "revoke a token", tokenRevokeHelp, p.runTokenRevoke},
		{"fsck", "[flags]", "check an upload directory and its catalog", fsckHelp, p.runFsck},
		{"gc", "[flags]", "delete what an upload directory does not keep", gcHelp, p.runGC},
		{"pin add", "NAME PATH [flags]", "keep a path, under a name", pinAddHelp, p.runPinAdd},
		{"pin remove", "NAME [flags]", "keep a path no longer", pinRemoveHelp, p.runPinRemove},
		{"pin list", "[NAME] [flags]", "list what is kept by name", pinListHelp, p.runPinList},
		{"delete", "PATH [flags]", "delete one path of an upload directory", deleteHelp, p.runDelete},
		{"config check", "FILE", "check a configuration file and print its settings", configCheckHelp, p.runConfigCheck},
		{"version", "", "print the version", "", p.runVersion},
		{"help", "[COMMAND]", "explain a command", "", p.runHelp},
	}
}

// runCommand runs the command that args begin with; without one, serve.
func (p *process) runCommand(ctx context.Context, args []string) error {
	switch {
	case len(args) > 0 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help"):
		args = []string{"help"}
	case len(args) > 0 && (args[0] == "-version" || args[0] == "--version"):
		args = []string{"version"}
	case len(args) == 0 || strings.HasPrefix(args[0], "-"):
		args = append([]string{"serve"}, args...)
	}
	cmd, rest := p.find(args)
	if cmd == nil {
		return p.noCommand(args)
	}
	return ignoreHelp(cmd.run(ctx, cmd, rest))
}

// noCommand is misuse, or a question for help. Where the first word begins the names of commands, it lists those.
func (p *process) noCommand(args []string) error {
	group := p.group(args[0])
	if len(group) > 0 && len(args) > 1 && slices.Contains([]string{"-h", "-help", "--help"}, args[1]) {
		listCommands(p.stdout, group)
		return nil
	}
	advice := "narserved help lists the commands"
	if len(group) > 0 {
		var list strings.Builder
		listCommands(&list, group)
		advice = "there are\n" + strings.TrimSuffix(list.String(), "\n")
	}
	return usageError{hint(fmt.Errorf("no command %q", strings.Join(args[:min(2, len(args))], " ")), advice)}
}

// group returns the commands whose names begin with the word and have another one.
func (p *process) group(word string) []*command {
	return slices.DeleteFunc(p.commands(), func(c *command) bool { return !strings.HasPrefix(c.name, word+" ") })
}

func listCommands(w io.Writer, commands []*command) {
	for _, c := range commands {
		fmt.Fprintf(w, "  %-15s %s\n", c.name, c.short)
	}
}

// ignoreHelp makes a success of help that was asked for.
func ignoreHelp(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	return err
}

// find returns the command that args begin with and the arguments after its name.
func (p *process) find(args []string) (*command, []string) {
	for _, cmd := range p.commands() {
		words := strings.Fields(cmd.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == cmd.name {
			return cmd, args[len(words):]
		}
	}
	return nil, nil
}

// flagSet is an empty set of flags for the command. It prints nothing by itself.
func (c *command) flagSet() *flag.FlagSet {
	set := flag.NewFlagSet(c.name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	return set
}

// parse reads flags, which may stand before, between and after the words that it returns.
// Asked for help it prints it and returns flag.ErrHelp.
func (p *process) parse(cmd *command, set *flag.FlagSet, args []string) (words []string, err error) {
	for {
		err := set.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			cmd.printHelp(p.stdout, set)
			return nil, err
		}
		if err != nil {
			return nil, cmd.misuse(doubleDashes(err.Error()))
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

// misuse is an error about how the command was called.
func (c *command) misuse(what string) error {
	return usageError{hint(fmt.Errorf("%s: %s", c.name, what),
		fmt.Sprintf("usage: %s %s (see: %s --help)", c.invocation(), c.args, c.invocation()))}
}

// invocation is how the command is called.
func (c *command) invocation() string {
	if c.name == "nix-serve" {
		return c.name
	}
	return "narserved " + c.name
}

func (c *command) printHelp(w io.Writer, set *flag.FlagSet) {
	fmt.Fprintf(w, "%s: %s\n\nUsage: %s %s\n", c.invocation(), c.short, c.invocation(), c.args)
	if c.long != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(c.long))
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
func (p *process) runHelp(ctx context.Context, cmd *command, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(p.stdout, "narserved serves a Nix store to every Nix that can reach it.\n\nCommands:\n")
		listCommands(p.stdout, p.commands())
		fmt.Fprint(p.stdout, "\nnarserved help COMMAND explains one, with its flags and examples.\n")
		return nil
	}
	other, rest := p.find(args)
	if other == nil && len(args) == 1 && len(p.group(args[0])) > 0 {
		listCommands(p.stdout, p.group(args[0]))
		return nil
	}
	if other == nil || len(rest) > 0 {
		return cmd.misuse(fmt.Sprintf("there is no command %q", strings.Join(args, " ")))
	}
	if other.name == cmd.name {
		return p.runHelp(ctx, cmd, nil)
	}
	return other.run(ctx, other, []string{"--help"})
}

func (p *process) runVersion(_ context.Context, cmd *command, args []string) error {
	words, err := p.parse(cmd, cmd.flagSet(), args)
	if err != nil {
		return err
	}
	if len(words) > 0 {
		return cmd.misuse("takes no arguments")
	}
	_, err = fmt.Fprintf(p.stdout, "narserved %s (%s, %s/%s)\n",
		version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// version is the module's version, with the commit where the build knows no version.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
