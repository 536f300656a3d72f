package artefact

import (
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// DefaultBudget is how much a [Cache] keeps on disk unless told otherwise.
const DefaultBudget = 10 << 30

// Options are the settings of a [Cache]. nil and the zero value are the defaults.
type Options struct {
	// Budget is the most bytes that artefacts may take on disk, at any moment. 0: [DefaultBudget].
	Budget int64

	// Encoders is how many frames are compressed at a time. 0: GOMAXPROCS, but no more than 8.
	Encoders int

	// Logger receives damage (Error) and want of room (Warn). Errors of the store go to who opens. nil discards them.
	Logger *slog.Logger

	// Trace is told what happens. nil: nobody is.
	Trace *Trace

	pause time.Duration // for which a disk that could not be written to is left alone; 0: 30 s
}

// Trace has functions that are called, if not nil, by the goroutine that does the work. They must be quick, safe for
// concurrent use, and must not call the [Cache].
type Trace struct {
	// Made is called when an archive has been compressed whole, size bytes long, in a job that took d without waiting.
	Made func(path narinfo.StorePath, narSize, size int64, d time.Duration)
	// Failed is called when a job ended without an archive, unless it was given up.
	Failed func(path narinfo.StorePath, err error)
	// Hit is called when a finished artefact is opened.
	Hit func(path narinfo.StorePath)
	// Joined is called when an artefact is opened that is being made for somebody else.
	Joined func(path narinfo.StorePath)
	// Direct is called when an archive is compressed for one reader, and not kept.
	Direct func(path narinfo.StorePath)
	// Evicted is called when an artefact was removed to make room.
	Evicted func(narHash narinfo.Hash, size int64)
	// Damaged is called when an artefact was removed because it is not what its name says.
	Damaged func(narHash narinfo.Hash)
}

const maxDefaultEncoders = 8

func (o *Options) complete() error {
	if o.Budget < 0 || o.Encoders < 0 {
		return fmt.Errorf("artefact: budget %d or encoders %d negative", o.Budget, o.Encoders)
	}
	if o.Budget == 0 {
		o.Budget = DefaultBudget
	}
	if o.Encoders == 0 {
		o.Encoders = min(runtime.GOMAXPROCS(0), maxDefaultEncoders)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Trace == nil {
		o.Trace = new(Trace)
	}
	if o.pause == 0 {
		o.pause = 30 * time.Second
	}
	return nil
}
