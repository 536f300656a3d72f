package bucketstore

import (
	"context"
	"log/slog"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Options say how a cache is read. nil is the zero value.
type Options struct {
	// Logger receives alarms (Error): archives that are absent or wrong; and their end (Info). nil discards them.
	Logger *slog.Logger

	// Cache is the name of a cache in the bucket, "" being the one at its root: 1 to 63 lower-case letters, digits and
	// -_. after the first, without two dots in a row, and neither a name that a bucket has at its root nor one that ends as
	// a file there does. Its files lie in a folder of that name, but for archives, which all caches share.
	Cache string

	// Used is called with each path that is looked up and there. It must be quick. nil: nobody is told.
	Used func(narinfo.HashPart)

	// Holds reports whether an archive that is asked for by its key, nar/FILEHASH.nar[.EXT], is one of this cache's: in a
	// bucket of several caches others must not get at it by its name. nil: each is the root's, and none a named cache's.
	Holds func(ctx context.Context, key string) (bool, error)

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
	if c.Used == nil {
		c.Used = func(narinfo.HashPart) {}
	}
	if c.Holds == nil {
		c.Holds = func(context.Context, string) (bool, error) { return c.Cache == "", nil }
	}
	if c.look == 0 {
		c.look = time.Second
	}
	return c
}
