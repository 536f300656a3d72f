package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nix-community/go-nix/pkg/derivation"

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
	if err == nil && len(paths) == 0 && p.env["DRV_PATH"] != "" {
		paths, err = outputsOf(p.env["DRV_PATH"])
	}
	if err == nil && *dir == "" {
		err = errors.New("there is no state folder for a queue (name one with --queue DIR)")
	}
	if err == nil && len(paths) > 0 {
		err = queue{*dir}.add(paths)
	}
	if err != nil {
		fmt.Fprintf(p.stderr, "narserved: post-build-hook: not queued for pushing: %v: %s\n", err,
			cmp.Or(p.env["OUT_PATHS"], p.env["DRV_PATH"]))
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

// outputsOf lists those outputs of a derivation that are there. Nix 2.8 leaves OUT_PATHS empty for a build that did not
// say which outputs it wants.
func outputsOf(drv string) (paths []narinfo.StorePath, err error) {
	f, err := os.Open(drv)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	d, err := derivation.ReadDerivation(f)
	if d == nil {
		return nil, fmt.Errorf("%s: %w", drv, err)
	}
	// What else it finds wrong, such as a store that is not /nix/store, is not our business.
	for _, output := range d.Outputs {
		path, err := narinfo.ParseStorePath(output.Path)
		if err != nil {
			continue // a content-addressed output has none beforehand
		}
		if _, err := os.Lstat(string(path)); err == nil {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
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
