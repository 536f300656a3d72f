package contest

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"time"
)

// Command is a contender that is a command rather than a server: what a pass with one connection is compared with where
// no file could be served.
type Command struct {
	// Kind is of the passes that it takes part in, those with one connection.
	Kind Kind
	// Label is its name.
	Label string
	// Args are the program and its arguments.
	Args []string
	// Logical is how many bytes of NAR a run handles.
	Logical int64
}

// Name returns the label.
func (c *Command) Name() string { return c.Label }

// Runs reports whether the pass is of the command's kind and over one connection.
func (c *Command) Runs(p Pass) bool { return p.Kind == c.Kind && p.Connections == 1 }

// Prepare runs the command once.
func (c *Command) Prepare(ctx context.Context) error {
	_, err := c.Measure(ctx, Pass{Kind: c.Kind, Connections: 1, Repeat: 1})
	return err
}

// Measure runs the command to its end, as often as the pass repeats.
func (c *Command) Measure(ctx context.Context, p Pass) (Sample, error) {
	s := Sample{Requests: p.Repeat, Logical: c.Logical * int64(p.Repeat)}
	start := time.Now()
	for range p.Repeat {
		cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			return Sample{}, fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
		}
		s.CPU += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	s.Time = time.Since(start)
	return s, nil
}
