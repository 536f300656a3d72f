package main

import (
	"context"

	"github.com/BurntSushi/toml"
)

// runConfigCheck validates a configuration file and prints the settings that follow from it.
func (p *process) runConfigCheck(_ context.Context, cmd *command, args []string) error {
	words, err := p.parse(cmd, cmd.flagSet(), args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return cmd.misuse("takes one FILE")
	}
	c := defaultConfig()
	if err := c.readConfig(words[0]); err != nil {
		return err
	}
	if err := c.complete(p.env); err != nil {
		return err
	}
	if len(c.Listen) == 0 {
		c.Listen = []string{defaultListen}
	}
	encoder := toml.NewEncoder(p.stdout)
	encoder.Indent = ""
	return encoder.Encode(c)
}
