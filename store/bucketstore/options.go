package bucketstore

import (
	"log/slog"
	"time"
)

// Options say how a cache is read. nil is the zero value.
type Options struct {
	// Logger receives alarms (Error): archives that are absent or wrong; and their end (Info). nil discards them.
	Logger *slog.Logger

	look time.Duration // how long a quarantined path is left alone between two looks at its archive
}

// withDefaults returns a complete copy of o.
func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.look == 0 {
		c.look = time.Second
	}
	return c
}
