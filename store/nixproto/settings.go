package nixproto

import (
	"context"
	"fmt"
	"time"
)

// Settings are what a client wants of a daemon for the rest of the connection.
// All of them are sent: a zero value is no default but that value.
//
// A daemon ignores, with a line in the log, what it does not allow a client that it does not trust:
// of Overrides it takes "timeout", "max-silent-time", "build-poll-interval", "connect-timeout", an empty "builders", and
// "substituters" that it knows. The fields it takes from anybody.
type Settings struct {
	KeepFailed     bool // leave the folders of failed builds
	KeepGoing      bool // go on with other builds after a failure
	Fallback       bool // build what cannot be substituted
	Verbosity      uint64
	MaxJobs        uint64        // builds at once; 0 builds nothing but by the daemon's own builders
	MaxSilentTime  time.Duration // in whole seconds; 0 for ever
	VerboseBuild   bool          // builds' output as log lines; without it, as results of activities: see [Event.LogLine]
	Cores          uint64        // what a build finds in NIX_BUILD_CORES; 0 for all
	UseSubstitutes bool

	// Overrides sets others by their names in nix.conf.
	// A daemon with builders of its own passes a build on to them unless "builders" is set to "".
	Overrides map[string]string
}

const (
	levelError = 0
	levelVomit = 7
)

// SetOptions changes the daemon's settings for this connection. nil is an error, for it would mean all zeros.
func (c *Client) SetOptions(ctx context.Context, s *Settings) error {
	if err := s.check(); err != nil {
		return err
	}
	return c.call(ctx, opSetOptions, func(e *encoder) { encodeSettings(e, s) }, func(*decoder) {})
}

func (s *Settings) check() error {
	if s == nil {
		return fmt.Errorf("nixproto: %s: no settings", opSetOptions)
	}
	if s.MaxSilentTime < 0 {
		return fmt.Errorf("nixproto: %s: MaxSilentTime is %v", opSetOptions, s.MaxSilentTime)
	}
	return nil
}

func encodeSettings(e *encoder, s *Settings) {
	e.bool(s.KeepFailed)
	e.bool(s.KeepGoing)
	e.bool(s.Fallback)
	e.uint64(s.Verbosity)
	e.uint64(s.MaxJobs)
	e.uint64(uint64(s.MaxSilentTime / time.Second))
	e.uint64(1) // builders of the daemon's own are used, once a switch
	verbose := uint64(levelVomit)
	if s.VerboseBuild {
		verbose = levelError
	}
	e.uint64(verbose)
	e.uint64(0) // a kind of log, once
	e.uint64(0) // no trace of builds, once
	e.uint64(s.Cores)
	e.bool(s.UseSubstitutes)
	mapTo(e, s.Overrides, e.string)
}

func decodeSettings(d *decoder) *Settings {
	s := &Settings{KeepFailed: d.bool(), KeepGoing: d.bool(), Fallback: d.bool(), Verbosity: d.uint64(), MaxJobs: d.uint64()}
	s.MaxSilentTime = decodeSeconds(d)
	d.uint64()
	s.VerboseBuild = d.uint64() == levelError
	d.uint64()
	d.uint64()
	s.Cores, s.UseSubstitutes = d.uint64(), d.bool()
	s.Overrides = mapOf(d, d.string)
	return s
}

func decodeSeconds(d *decoder) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	n := d.int64()
	if n > most {
		d.fail("%d seconds", n)
		return 0
	}
	return time.Duration(n) * time.Second
}
