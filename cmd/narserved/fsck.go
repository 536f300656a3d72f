package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// kinds is a flag without a value, which is all kinds of findings, or with some.
type kinds []bucketstore.Kind

// Set implements flag.Value.
func (k *kinds) Set(text string) error {
	*k = nil
	if text == "true" {
		*k = bucketstore.Kinds()
		return nil
	}
	for name := range strings.SplitSeq(text, ",") {
		kind := bucketstore.Kind(name)
		if !slices.Contains(bucketstore.Kinds(), kind) {
			return fmt.Errorf("%q is none of %s", name, kinds(bucketstore.Kinds()))
		}
		*k = append(*k, kind)
	}
	return nil
}

// IsBoolFlag lets the flag stand alone.
func (k *kinds) IsBoolFlag() bool { return true }

// String implements flag.Value.
func (k kinds) String() string {
	names := make([]string, len(k))
	for i, kind := range k {
		names[i] = string(kind)
	}
	return strings.Join(names, ", ")
}

// fsckOptions are what fsck was told.
type fsckOptions struct {
	content, rebuild, json bool
	repair                 kinds
}

// runFsck prints what is wrong, and fails if anything is that was not repaired.
func (p *process) runFsck(ctx context.Context, cmd *command, args []string) error {
	var o fsckOptions
	c, words, err := p.bucketConfig(cmd, args, func(_ *Config, set *flag.FlagSet) {
		set.BoolVar(&o.content, "content", false, "read every archive in full")
		set.BoolVar(&o.rebuild, "rebuild", false, "first fill an empty catalog with what the directory holds")
		set.Var(&o.repair, "repair", "repair what can be; as --repair=`KIND`,… only that")
		set.BoolVar(&o.json, "json", false, "print an object a line")
	})
	if err != nil {
		return err
	}
	if len(words) > 0 {
		return cmd.misuse(fmt.Sprintf("takes no arguments, but got %q", words[0]))
	}
	b, err := p.openToCheck(ctx, c, o.rebuild)
	if err != nil {
		return err
	}
	defer b.Close()
	open, repaired := 0, 0
	options := &bucketstore.FsckOptions{Content: o.content, Repair: o.repair}
	for f, err := range bucketstore.Fsck(ctx, b.files, b.catalog, options) {
		if err != nil {
			return fmt.Errorf("fsck: %w", err)
		}
		if f.Repaired {
			repaired++
		} else {
			open++
		}
		if err := p.printFinding(f, o.json); err != nil {
			return err
		}
	}
	if open > 0 {
		return hint(fmt.Errorf("fsck: %d findings, and %d repaired", open, repaired), "narserved help fsck says what to do about each kind")
	}
	fmt.Fprintf(p.stderr, "The directory and its catalog are right; %d findings were repaired.\n", repaired)
	return nil
}

// openToCheck opens the directory, and fills its catalog if that is wanted.
func (p *process) openToCheck(ctx context.Context, c *Config, rebuild bool) (*openedBucket, error) {
	if !rebuild {
		return c.openOperated(ctx)
	}
	if err := c.makeStateDir(); err != nil && strings.HasPrefix(c.Catalog, c.StateDir+"/") {
		return nil, hint(fmt.Errorf("fsck: %w", err), "--catalog names another file, --state-dir another folder")
	}
	b, err := c.openAnew(ctx)
	if err != nil {
		return nil, err
	}
	paths, err := bucketstore.Rebuild(ctx, b.files, b.catalog, nil)
	if errors.Is(err, catalog.ErrNotEmpty) {
		err = hint(fmt.Errorf("fsck: the catalog %s is not empty", c.Catalog), "stop the server and move the file away first, or leave --rebuild out")
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	fmt.Fprintf(p.stderr, "%d paths were entered into %s.\n", paths, c.Catalog)
	return b, nil
}

// findingJSON is a finding. Path is null where it is not known, error unless a repair has failed.
type findingJSON struct {
	Kind     bucketstore.Kind   `json:"kind"`
	Cache    string             `json:"cache"`
	Path     *narinfo.StorePath `json:"path"`
	Key      string             `json:"key"`
	Detail   string             `json:"detail"`
	Repaired bool               `json:"repaired"`
	Error    *string            `json:"error"`
}

func (p *process) printFinding(f bucketstore.Finding, asJSON bool) error {
	if !asJSON {
		_, err := fmt.Fprintln(p.stdout, strings.ReplaceAll(f.String(), "\n", " "))
		return err
	}
	object := findingJSON{Kind: f.Kind, Cache: f.Cache, Key: f.Key, Detail: f.Detail, Repaired: f.Repaired}
	if f.Path != "" {
		object.Path = &f.Path
	}
	if f.Err != nil {
		object.Error = new(f.Err.Error())
	}
	encoder := json.NewEncoder(p.stdout)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(object)
}
