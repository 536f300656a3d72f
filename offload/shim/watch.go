package shim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// watch gives a build up that says nothing for too long, or takes too long.
type watch struct {
	*order
	ticket *Ticket
	ctx    context.Context // the build's, which ends when it is given up
	cancel context.CancelCauseFunc
	ended  chan struct{}
	done   sync.WaitGroup

	mu    sync.Mutex // guards what follows
	bytes *counted   // nil: not connected yet
	spoke time.Time  // when the build last said something
	began time.Time  // zero: inputs are being copied
}

func (o *order) watch(ctx context.Context, t *Ticket) *watch {
	w := &watch{order: o, ticket: t, ended: make(chan struct{}), spoke: time.Now()}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.done.Go(w.run)
	return w
}

// event passes on what the builder's daemon says. The build's own words are signs of life.
func (w *watch) event(ev nixproto.Event) {
	if ev.Kind == nixproto.EventLog || ev.Kind == nixproto.EventResult {
		w.mu.Lock()
		w.spoke = time.Now()
		w.mu.Unlock()
	}
	w.tell.Send(ev)
}

// look has bytes that move count as signs of life too.
func (w *watch) look(b *builder) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes = b.moved
}

// building says that the inputs are there.
func (w *watch) building() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.began = time.Now()
	w.spoke = w.began
}

// end ends watching, and waits for that.
func (w *watch) end() {
	close(w.ended)
	w.done.Wait()
}

// why is why the build was given up, nil if it was not.
func (w *watch) why() error { return context.Cause(w.ctx) }

func (w *watch) run() {
	ticker := time.NewTicker(max(w.opts.Stall/20, 10*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-w.ended:
			return
		case <-w.ctx.Done():
			return
		case <-ticker.C:
		}
		if err := w.judge(time.Now()); err != nil {
			w.cancel(err)
			return
		}
	}
}

// grace is how much later than the builder's daemon we end what is silent or takes too long: it says so better.
const grace = 10 * time.Second

// judge returns why the build is given up, nil if it is not.
func (w *watch) judge(now time.Time) error {
	w.mu.Lock()
	bytes, spoke, began := w.bytes, w.spoke, w.began
	w.mu.Unlock()
	silent := now.Sub(spoke)
	if !began.IsZero() {
		switch l := &w.limits; {
		case l.MaxSilent > 0 && silent > l.MaxSilent+grace:
			return &timeoutError{fmt.Sprintf("timed out after %v of silence", l.MaxSilent)}
		case l.Timeout > 0 && now.Sub(began) > l.Timeout+grace:
			return &timeoutError{fmt.Sprintf("timed out after %v", l.Timeout)}
		}
	}
	if silent <= w.opts.Stall {
		return nil
	}
	if bytes != nil {
		if _, moved := bytes.counts(); now.Sub(moved) <= w.opts.Stall {
			return nil
		}
	}
	if w.busy() {
		return nil
	}
	return fmt.Errorf("%w: for %v the build has said nothing, and the machine does nothing", errMachine, w.opts.Stall)
}

// idleLoad is the load average below which a machine does nothing.
const idleLoad = 0.1

// busy reports whether the machine says that it does something.
func (w *watch) busy() bool {
	ctx, cancel := context.WithTimeout(w.ctx, lookLimit)
	defer cancel()
	r, err := w.desk.Look(ctx, w.ticket.Machine.Name)
	return err == nil && (r.Load1 == nil || *r.Load1 >= idleLoad)
}

// timeoutError ends a build on every machine.
type timeoutError struct{ text string }

func (e *timeoutError) Error() string { return e.text }
