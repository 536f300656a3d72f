package target

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
)

// Narserved is a narserved program and what it can do.
type Narserved struct {
	Program string
	flags   map[string]bool
}

var flagLine = regexp.MustCompile(`(?m)^  --([a-z0-9-]+)`)

// NewNarserved asks a narserved for its flags.
func NewNarserved(ctx context.Context, program string) (*Narserved, error) {
	out, err := exec.CommandContext(ctx, program, "help", "serve").Output()
	if err != nil {
		return nil, fmt.Errorf("target: %s help serve: %w", program, err)
	}
	n := &Narserved{Program: program, flags: make(map[string]bool)}
	for _, m := range flagLine.FindAllSubmatch(out, -1) {
		n.flags[string(m[1])] = true
	}
	return n, nil
}

// BuildNarserved builds this module's narserved into a folder; the current folder must lie in the module.
func BuildNarserved(ctx context.Context, dir string) (*Narserved, error) {
	program := filepath.Join(dir, "narserved")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/voidnxlab/nixtrap/cmd/narserved")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("target: go build: %w\n%s(run it in the repository, or name a program with --narserved)",
			err, stderr.Bytes())
	}
	return NewNarserved(ctx, program)
}

// Has reports whether it knows a flag of serve, named without dashes.
func (n *Narserved) Has(flag string) bool { return n.flags[flag] }

// Serve is a narserved with flags beside those for address, state folder and log. A flag's value that is DIR stands for
// a folder of the run's own.
func (n *Narserved) Serve(name string, flags ...string) Program {
	return Program{Name: name, Command: func(ctx context.Context, addr, dir string) (*exec.Cmd, error) {
		args := []string{
			"serve", "--listen", addr, "--state-dir", filepath.Join(dir, "state"), "--log-level", "warn",
		}
		for _, flag := range flags {
			if flag == "DIR" {
				flag = filepath.Join(dir, "made")
			}
			args = append(args, flag)
		}
		cmd := exec.CommandContext(ctx, n.Program, args...)
		return cmd, nil
	}}
}
