package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/daemon"
	"github.com/voidnxlab/nixtrap/offload/history"
	"github.com/voidnxlab/nixtrap/offload/host"
	"github.com/voidnxlab/nixtrap/store"
)

// Transport reaches builders. It is safe for concurrent use.
type Transport interface {
	// Open starts a command on a machine, and returns its standard input and output. What it prints on its standard error
	// goes to stderr, if that is not nil. Close ends it, and ends a blocked Read or Write. ctx governs the opening alone.
	// A machine that cannot be reached soon is an error, and so is, where its output ends, a command that failed.
	Open(ctx context.Context, m *offload.Machine, command string, stderr io.Writer) (io.ReadWriteCloser, error)

	// Breaker tells whether the machine failed of late.
	Breaker(m *offload.Machine) offload.Breaker
}

// Options say what a coordinator works with.
type Options struct {
	// Machines are the builders.
	Machines []offload.Machine
	// Local is this machine. What a hook says of it (max-jobs, systems and features, as its Nix has them) goes before that.
	// nil: builders alone.
	Local *offload.Machine
	// Policy holds the figures of decisions. nil is all defaults.
	Policy *offload.Policy

	Transport Transport
	// StoreRoot is the folder in which the store's folder is: derivations are read from it. "": /.
	StoreRoot string
	// Store is this machine's, which says what builds need and how large that is. nil: what builders lack is not known.
	Store store.Store
	// History is asked for estimates, and told of builds and decisions. nil: nothing is known of other builds.
	History *history.DB

	// ShimDir is the folder in which each lease has a name of its own for the program ShimProgram.
	ShimDir, ShimProgram string

	// LeaseTime is for how long a machine is kept for a hook's build that does not come. 0: 30 s.
	LeaseTime time.Duration
	// ReadEvery is how often readings are taken of a machine that builds; one that does not is read half as often. 0: 2 s.
	ReadEvery time.Duration

	// HostRoot is where this machine's readings are taken from: see [host.Options]. "": /.
	HostRoot string
	// Logger is told of decisions (Info) and trouble. nil discards.
	Logger *slog.Logger
}

// Coordinator is safe for concurrent use.
type Coordinator struct {
	opts Options
	log  *slog.Logger

	mu       sync.Mutex // guards all below
	fleet    map[string]*machine
	names    []string // of the fleet's builders, in the order given
	local    *machine // nil: none
	leases   map[string]*lease
	asked    map[string]time.Time         // when Nix first asked for a derivation that waits
	built    map[narinfo.StorePath]result // outputs that may still be fetched
	override modeOverride
	changed  chan struct{} // closed and replaced when a slot has come free

	closures  *closures // nil: not known
	inquiries chan *inquiry
}

// machine is one of the fleet, with what is known of it.
type machine struct {
	offload.Machine
	readings  offload.Readings
	drained   time.Time // until when no more is given to it; zero: it is not drained
	bandwidth float64   // bytes a second, as measured; 0: not yet
	running   map[*lease]bool
	lastError string

	has     map[narinfo.StorePath]bool // whether a path is there, if that is known
	learned time.Time                  // since when that was learned
	asked   time.Time                  // when it was last asked

	// A machine on which builds were lost is left alone for a time that doubles, and then tried with one.
	losses    int // in a row
	suspended time.Time

	protocol daemon.Protocol // that its Nix was spoken to in
}

const (
	firstSuspension = 5 * time.Second
	maxSuspension   = 5 * time.Minute
)

// lost notes that a build was lost on the machine. What was lost at the same time is one loss.
func (m *machine) lost(now time.Time, why string) {
	m.lastError, m.has, m.protocol = why, nil, ""
	if now.Before(m.suspended) {
		return
	}
	m.suspended = now.Add(min(firstSuspension<<min(m.losses, 10), maxSuspension))
	m.losses++
}

// breaker is the machine's, and the transport's to it.
func (m *machine) breaker(t Transport, now time.Time) offload.Breaker {
	switch b := t.Breaker(&m.Machine); {
	case b != offload.BreakerClosed:
		return b
	case now.Before(m.suspended):
		return offload.BreakerOpen
	case m.losses > 0:
		return offload.BreakerHalfOpen
	}
	return offload.BreakerClosed
}

// result is where an output was built.
type result struct {
	machine string
	until   time.Time
}

type modeOverride struct {
	mode  offload.Mode
	until time.Time
}

// New makes a coordinator. Run keeps its readings fresh.
func New(o Options) (*Coordinator, error) {
	if o.Transport == nil {
		return nil, errors.New("coordinator: it needs a Transport")
	}
	for _, d := range []struct {
		field     *time.Duration
		otherwise time.Duration
	}{{&o.LeaseTime, 30 * time.Second}, {&o.ReadEvery, 2 * time.Second}} {
		if *d.field <= 0 {
			*d.field = d.otherwise
		}
	}
	c := &Coordinator{
		opts: o, log: o.Logger, fleet: make(map[string]*machine), leases: make(map[string]*lease),
		asked: make(map[string]time.Time), built: make(map[narinfo.StorePath]result), changed: make(chan struct{}),
		inquiries: make(chan *inquiry, 2*askers),
	}
	if o.Store != nil {
		c.closures = &closures{Store: o.Store, root: o.StoreRoot}
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	for _, m := range o.Machines {
		if c.fleet[m.Name] != nil || m.Local || m.Name == "" {
			return nil, fmt.Errorf("coordinator: machine %q: builders need names of their own", m.Name)
		}
		c.fleet[m.Name] = &machine{Machine: m, running: make(map[*lease]bool)}
		c.names = append(c.names, m.Name)
	}
	if o.Local != nil {
		c.local = &machine{Machine: *o.Local, running: make(map[*lease]bool)}
		c.local.Local = true
		if c.fleet[c.local.Name] != nil {
			return nil, fmt.Errorf("coordinator: a builder is called %q as this machine is", c.local.Name)
		}
	}
	return c, nil
}

// Run takes readings and ends what nobody came for, until ctx ends.
func (c *Coordinator) Run(ctx context.Context) {
	var readers sync.WaitGroup
	c.mu.Lock()
	for _, m := range c.fleet {
		readers.Go(func() { c.readOver(ctx, m) })
	}
	c.mu.Unlock()
	for range askers {
		readers.Go(func() { c.answerInquiries(ctx) })
	}
	ticker := time.NewTicker(min(c.opts.LeaseTime/4, time.Second))
	defer ticker.Stop()
	for ctx.Err() == nil {
		c.expire(time.Now())
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	readers.Wait()
}

// readOver takes a machine's readings over and over.
func (c *Coordinator) readOver(ctx context.Context, m *machine) {
	for {
		c.read(ctx, m)
		c.mu.Lock()
		pause := c.opts.ReadEvery
		if len(m.running) == 0 {
			pause *= 2
		}
		c.mu.Unlock()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// readLimit is how long a machine may take to say how it is.
const readLimit = 5 * time.Second

// read takes a machine's readings once. One that does not give any has those that it had, which grow old.
func (c *Coordinator) read(ctx context.Context, m *machine) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	readings, err := c.readingsOf(ctx, &m.Machine)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		m.lastError = err.Error()
		return
	}
	m.readings, m.lastError = readings, ""
}

func (c *Coordinator) readingsOf(ctx context.Context, m *offload.Machine) (offload.Readings, error) {
	conn, err := c.opts.Transport.Open(ctx, m, host.Script(), nil)
	if err != nil {
		return offload.Readings{}, err
	}
	if in, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = in.CloseWrite() // a key may start something else, which would wait for its input
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	text, err := io.ReadAll(io.LimitReader(conn, host.MaxOutput))
	if !stop() {
		return offload.Readings{}, context.Cause(ctx)
	}
	if err = errors.Join(err, conn.Close()); err != nil && len(text) == 0 {
		return offload.Readings{}, err
	}
	return host.Parse(string(text), time.Now()), nil
}

// Drain gives a machine no more builds until a time, or for good with the zero time's opposite, a year from now or later.
// The zero time ends that.
func (c *Coordinator) Drain(name string, until time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.fleet[name]
	if m == nil {
		return fmt.Errorf("no machine %q (there are %q)", name, slices.Sorted(maps.Keys(c.fleet)))
	}
	m.drained = until
	c.wake()
	return nil
}

// SetMode has decisions made in a mode until a time; the policy's own mode comes back then.
func (c *Coordinator) SetMode(mode offload.Mode, until time.Time) error {
	switch mode {
	case offload.ModeAuto, offload.ModeLocalFirst, offload.ModeRemoteFirst:
	default:
		return fmt.Errorf("no mode %q (auto, local, remote)", mode)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.override = modeOverride{mode, until}
	c.wake()
	return nil
}

// wake lets those who wait for a machine look again. It is called with the mutex held.
func (c *Coordinator) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}
