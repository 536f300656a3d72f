package shim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/internal/pause"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// order is one build, as the client wants it.
type order struct {
	*server
	drv     narinfo.StorePath
	what    *nixproto.Derivation
	request *offload.Request
	limits  Limits
}

// errDesk is wrapped by a build that was lost with its desk: no machine is to blame.
var errDesk = errors.New("the coordinator was started anew")

// maxDesks is how many desks may be lost under one build.
const maxDesks = 20

// errMachine is wrapped by what went wrong with a machine, and not with the build on it.
var errMachine = errors.New("the machine failed")

// build has an order built by the machine of a ticket, if there is one, and by others as long as machines fail. It returns
// the connection to the one that has it.
func (o *order) build(ctx context.Context, t *Ticket) (*nixproto.BuildResult, *builder, error) {
	var without []string
	var failures []error
	var nobody time.Time // when there was first nobody left
	desks := 0
	for {
		if t == nil {
			var err error
			t, err = o.desk.Place(ctx, &Wish{o.request, o.limits, without})
			switch {
			case errors.Is(err, ErrNobody) && failures == nil:
				return nil, nil, fmt.Errorf("nix-offload: %s: %w: see nix-offload explain %s", o.request.Name, err, o.drv)
			case errors.Is(err, ErrNobody):
				// What failed at it may take it again, for there is nobody else: a daemon that was being restarted, a
				// database that was busy.
				if nobody.IsZero() {
					nobody = time.Now()
					o.say("nix-offload: no other builder takes %s: those that failed are tried again", o.request.Name)
				}
				if time.Since(nobody) > o.opts.Patience || pause.For(ctx, o.opts.Patience/4) != nil {
					// Not wrapped, or the client would be told what a builder's daemon said, and not whose.
					return nil, nil, fmt.Errorf("nix-offload: every builder that takes %s failed: %v", o.request.Name, errors.Join(failures...))
				}
				without = nil
				continue
			case err != nil:
				return nil, nil, err
			}
		}
		r, b, err := o.buildOn(ctx, t)
		if err == nil {
			return r, b, nil
		}
		if ctx.Err() != nil || !errors.Is(err, errMachine) {
			return nil, nil, err
		}
		if errors.Is(err, errDesk) && desks < maxDesks {
			desks++
			t = nil
			continue
		}
		name := t.Machine.Name
		without = append(without, name)
		failures = append(failures, fmt.Errorf("%s: %w", name, err))
		o.opts.Logger.Warn("build lost", "drv", o.drv, "machine", name, "error", err)
		o.say("nix-offload: %s is given up for %s: %v", name, o.request.Name, err)
		t = nil
	}
}

// buildOn has an order built by the machine of a ticket, and reports how that ended.
func (o *order) buildOn(ctx context.Context, t *Ticket) (*nixproto.BuildResult, *builder, error) {
	report := &Report{Lease: t.Lease, Request: o.request, Outcome: offload.Outcome{Machine: t.Machine.Name}}
	started := time.Now()
	r, b, err := o.attempt(ctx, t, report)
	report.Outcome.When = time.Now()
	report.Outcome.Seconds = report.Outcome.When.Sub(started).Seconds()
	report.Outcome.Result = resultOf(r, err)
	switch {
	case err != nil:
		report.Outcome.Detail = firstLine(err.Error())
	case !r.Status.OK():
		report.Outcome.Detail = firstLine(r.Message)
	default:
		if report.Outputs, err = outputsOf(r, o.what, o.store.StoreDir()); err != nil {
			return nil, b, errors.Join(err, b.client.Close())
		}
	}
	// A report that is lost costs knowledge, and the outputs' whereabouts where several connections fetch them.
	noted, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	lost := o.desk.Settle(noted, report)
	switch {
	case err != nil && errors.Is(lost, ErrForgotten):
		err = fmt.Errorf("%w: %w", errDesk, err)
	case lost != nil && !errors.Is(lost, ErrForgotten):
		o.opts.Logger.Warn("report lost", "drv", o.drv, "error", lost)
	}
	return r, b, err
}

// attempt is one try on one machine. It returns a builder or an error, not both.
func (o *order) attempt(ctx context.Context, t *Ticket, report *Report) (r *nixproto.BuildResult, b *builder, err error) {
	w := o.watch(ctx, t)
	defer func() {
		w.end()
		if why := w.why(); why != nil && err != nil && ctx.Err() == nil {
			err = why // whatever it looked like from inside
		}
		if err != nil && b != nil {
			_ = b.client.Close()
			b = nil
		}
	}()
	if b, err = dial(w.ctx, o.desk, t, w.event); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errMachine, err)
	}
	w.look(b)
	sending := time.Now()
	if err = b.prepare(w.ctx, o.store, o.what.InputSrcs, &o.limits); err != nil {
		return nil, b, fmt.Errorf("%w: copying inputs: %w", errMachine, b.explained(err))
	}
	report.Sent, _ = b.moved.counts()
	report.Sending = time.Since(sending)
	w.building()
	building := time.Now()
	if r, err = o.buildBy(w.ctx, b); err != nil {
		return nil, b, fmt.Errorf("%w: %w", errMachine, b.explained(err))
	}
	report.Wall, report.CPU = time.Since(building), r.CPUUser+r.CPUSystem
	if !r.Status.OK() && o.hasNoRoom(w.ctx, t) {
		return nil, b, fmt.Errorf("%w: no room is left there: %s", errMachine, firstLine(r.Message))
	}
	return r, b, nil
}

// buildBy has a builder build, whose inputs are there.
func (o *order) buildBy(ctx context.Context, b *builder) (*nixproto.BuildResult, error) {
	if b.client.Peer().Trust != nixproto.NotTrusted || o.what.ContentAddressed() {
		return b.client.BuildDerivation(ctx, o.drv, o.what, nixproto.BuildNormal)
	}
	// A daemon that does not trust us believes no derivation but those in its store, with all that made their inputs.
	closure, err := store.Closure(ctx, o.store, o.drv)
	if err != nil {
		return nil, err
	}
	paths := make([]narinfo.StorePath, len(closure))
	for i, info := range closure {
		paths[i] = info.StorePath
	}
	if err := b.send(ctx, o.store, paths, &o.limits); err != nil {
		return nil, err
	}
	wanted := nixproto.DerivedPath{Path: o.drv, Outputs: []string{"*"}}
	results, err := b.client.BuildPathsWithResults(ctx, []nixproto.DerivedPath{wanted}, nixproto.BuildNormal)
	if err != nil {
		return nil, err
	}
	if len(results) != 1 {
		return nil, fmt.Errorf("%d results of one build", len(results))
	}
	return &results[0].BuildResult, nil
}

// settleLimit is how long a report may take: a desk may be away for a moment.
const settleLimit = 20 * time.Second

const (
	room      = 100 << 20       // what a builder's file systems must have left, or a failed build is laid to that
	lookLimit = 5 * time.Second // how long a machine may take to say how it is
)

// hasNoRoom looks at a machine's disks.
func (o *order) hasNoRoom(ctx context.Context, t *Ticket) bool {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	readings, err := o.desk.Look(ctx, t.Machine.Name)
	if err != nil {
		return false
	}
	for _, s := range []offload.Space{readings.Store, readings.Build} {
		if s.Bytes != nil && *s.Bytes < room || s.Inodes != nil && *s.Inodes == 0 {
			return true
		}
	}
	return false
}

func resultOf(r *nixproto.BuildResult, err error) offload.Result {
	_, timedOut := errors.AsType[*timeoutError](err)
	switch {
	case timedOut:
		return offload.TimedOut
	case errors.Is(err, errMachine):
		return offload.Lost
	case err != nil:
		return offload.Cancelled
	case r.Status.OK():
		return offload.Built
	case r.Status == nixproto.TimedOut:
		return offload.TimedOut
	}
	return offload.Failed
}

// outputsOf are the paths that a build has made: those that are known before, and those that the result names.
func outputsOf(r *nixproto.BuildResult, what *nixproto.Derivation, dir string) ([]narinfo.StorePath, error) {
	named, err := r.OutputPaths(dir)
	if err != nil {
		return nil, err
	}
	var outputs []narinfo.StorePath
	for name, o := range what.Outputs {
		switch {
		case named[name] != "":
			outputs = append(outputs, named[name])
		case o.Path != "":
			outputs = append(outputs, o.Path)
		}
	}
	return outputs, nil
}

// say shows a line to the client.
func (o *order) say(format string, args ...any) {
	o.tell.Send(nixproto.Event{Kind: nixproto.EventLog, Text: fmt.Sprintf(format, args...) + "\n"})
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line[:min(len(line), 300)]
}
