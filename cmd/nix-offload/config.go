package main

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/voidnxlab/nixtrap/internal/subcommand"
	"github.com/voidnxlab/nixtrap/offload"
)

const configAdvice = "the keys are the flags of nix-offload coordinator, and a table [policy]: docs/offload.md has them"

// readConfig sets the flags that the command line has not, from a file, and the policy.
func readConfig(file string, set *flag.FlagSet, policy *offload.Policy) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return subcommand.Usage(subcommand.Hint(fmt.Errorf("config: %w", err), "name a TOML file that this user can read"))
	}
	if err := parseConfig(string(text), set, policy); err != nil {
		return subcommand.Usage(subcommand.Hint(fmt.Errorf("config: %s: %w", file, err), configAdvice))
	}
	return nil
}

func parseConfig(text string, set *flag.FlagSet, policy *offload.Policy) error {
	var values map[string]any
	meta, err := toml.Decode(text, &values)
	if syntax, ok := errors.AsType[toml.ParseError](err); ok {
		return fmt.Errorf("line %d: %s", syntax.Position.Line, syntax.Message)
	}
	if err != nil {
		return err
	}
	if err := parsePolicy(meta, text, policy); err != nil {
		return err
	}
	delete(values, policyTable)
	given := make(map[string]bool)
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if key == configFlag || set.Lookup(key) == nil {
			return fmt.Errorf("unknown key %q", key)
		}
		if given[key] {
			continue
		}
		if err := set.Set(key, fmt.Sprint(values[key])); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

const policyTable = "policy"

// parsePolicy decodes the table. The decoder takes a key in any case, and a bare number for nanoseconds: both are refused.
func parsePolicy(meta toml.MetaData, text string, policy *offload.Policy) error {
	into := struct {
		Policy *offload.Policy `toml:"policy"`
	}{policy}
	decoded, err := toml.Decode(text, &into)
	if err != nil {
		return err
	}
	for _, key := range decoded.Undecoded() {
		if key[0] == policyTable {
			return fmt.Errorf("unknown key %q", key)
		}
	}
	for _, key := range meta.Keys() {
		switch {
		case key[0] != policyTable || len(key) == 1:
		case key[1] != strings.ToLower(key[1]):
			return fmt.Errorf("unknown key %q: keys are in lower case", key)
		case slices.Contains(policyTimes, key[1]) && meta.Type(key...) != "String":
			return fmt.Errorf(`%s is a time with its unit, as "30s"`, key)
		}
	}
	return nil
}

// policyTimes are the keys of a policy that are times.
var policyTimes = []string{"patience", "max-wait", "stale-after"}
