package contest

import (
	"context"
	"time"
)

// Transfer is a contender that copies a closure, by itself or with a server that is started for it.
type Transfer struct {
	// Kind is Push or Pull.
	Kind Kind
	// Label is its name.
	Label string
	// Logical is how many bytes of NAR are copied.
	Logical int64
	// Copy copies once, from a clean beginning that it makes itself, and returns how long the copying took, and the CPU
	// time of a server, 0 without one.
	Copy func(ctx context.Context) (took, cpu time.Duration, err error)
}

// Name returns the label.
func (t *Transfer) Name() string { return t.Label }

// Runs reports whether the pass is of the transfer's kind.
func (t *Transfer) Runs(p Pass) bool { return p.Kind == t.Kind }

// Prepare copies once.
func (t *Transfer) Prepare(ctx context.Context) error {
	_, _, err := t.Copy(ctx)
	return err
}

// Measure copies once.
func (t *Transfer) Measure(ctx context.Context, _ Pass) (Sample, error) {
	took, cpu, err := t.Copy(ctx)
	return Sample{Time: took, CPU: cpu, Requests: 1, Logical: t.Logical}, err
}
