package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// hookName is a name that the program may be called by, for nix.conf's post-build-hook is a file without arguments.
const hookName = "narserved-post-build-hook"

// runPostBuildHook queues what Nix has built. Whatever goes wrong, a build must not fail for it: so it is said, and the
// status is 0 all the same. Only a command line that makes no sense is an error, at the first build.
func (p *process) runPostBuildHook(_ context.Context, cmd *command, args []string) error {
	set := cmd.flagSet()
	dir := set.String("queue", defaultQueue(p.env), "`DIR` with the queue, made if need be")
	words, err := p.parse(cmd, set, args)
	if err != nil {
		return err
	}
	if len(words) > 0 {
		return cmd.misuse("takes no arguments: Nix gives the paths in $OUT_PATHS")
	}
	paths, err := outPaths(p.env["OUT_PATHS"])
	if err == nil && *dir == "" {
		err = fmt.Errorf("there is no state folder for a queue (name one with --queue DIR)")
	}
	if err == nil && len(paths) > 0 {
		err = queue{*dir}.add(paths)
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "narserved: post-build-hook: not queued for pushing: %v: %s\n", err, p.env["OUT_PATHS"])
	}
	return nil
}

func outPaths(text string) (paths []narinfo.StorePath, err error) {
	for word := range strings.FieldsSeq(text) {
		path, err := narinfo.ParseStorePath(word)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// defaultQueue is the queue of those who name none, "" if there is no state folder.
func defaultQueue(env environ) string {
	state := defaultStateDir(env, os.Geteuid())
	if state == "" {
		return ""
	}
	return filepath.Join(state, queueDirName)
}
