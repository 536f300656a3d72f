package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"

	"github.com/voidnxlab/nixtrap/internal/subcommand"
	"github.com/voidnxlab/nixtrap/offload/hook"
)

// hookName is a name that the program may be called by, for Nix 2.8 takes a build-hook without arguments.
const hookName = "nix-offload-hook"

// socketVariable names the coordinator's socket where there is no flag.
const socketVariable = "NIX_OFFLOAD_SOCKET"

// hookAlone is the command that nix-offload-hook is.
func (p *process) hookAlone() *subcommand.Command {
	return &subcommand.Command{
		Name: hookName, Args: "[flags] VERBOSITY", Short: "answer Nix as its build-hook", Long: hookHelp,
		Invocation: hookName, Run: p.runHook,
	}
}

// runHook is a build hook. Called by Nix it never ends without a reply, for Nix would give up all that it was asked for.
func (p *process) runHook(ctx context.Context, cmd *subcommand.Command, args []string) error {
	log, logReader := hook.LogFiles()
	opts := &hook.Options{
		Fallback: hook.Fixed{Verdict: hook.Plain},
		Stock:    hook.Stock{Log: log, LogReader: logReader},
	}
	set := cmd.FlagSet()
	socket := set.String("socket", defaultSocket(p.env, os.Geteuid()),
		"the coordinator's `FILE`; $"+socketVariable+" sets it as well")
	set.DurationVar(&opts.Deadline, "deadline", hook.DefaultDeadline, "how long the coordinator may think: `TIME`")
	set.StringVar(&opts.Stock.Program, "nix", "",
		"`FILE` with the program nix whose build-remote builds; without, that of the Nix that asks")
	words, err := cmd.Parse(set, args)
	if err == nil && opts.Deadline <= 0 {
		err = cmd.Misuse("--deadline must be more than 0")
	}
	if err == nil && (len(words) != 1 || !isNumber(words[0])) {
		err = cmd.Misuse("Nix calls this, with its verbosity: a number")
	}
	if err != nil {
		if log != nil { // called by Nix
			_ = hook.Refuse(p.stdin, p.stderr, err)
		}
		return err
	}
	if *socket != "" {
		opts.Decider = hook.NewClient(*socket)
	}
	opts.Stock.Verbosity = words[0]
	status, err := hook.Serve(ctx, p.stdin, p.stderr, opts)
	if status != 0 && log != nil {
		return statusError(status)
	}
	return err
}

func isNumber(word string) bool {
	_, err := strconv.ParseUint(word, 10, 32)
	return err == nil
}

// defaultSocket is where the coordinator listens, "" if there is no place for it.
func defaultSocket(env environ, uid int) string {
	const socket = "nix-offload/coordinator.sock"
	switch {
	case env[socketVariable] != "":
		return env[socketVariable]
	case uid == 0:
		return filepath.Join("/run", socket)
	case env["XDG_RUNTIME_DIR"] != "":
		return filepath.Join(env["XDG_RUNTIME_DIR"], socket)
	}
	return ""
}
