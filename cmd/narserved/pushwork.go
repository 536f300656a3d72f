package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/httpstore/upload"
)

const (
	entriesAtOnce = 100
	queuePoll     = time.Second // between two looks at a queue
	minQueueRest  = 5 * time.Second
	maxQueueRest  = 5 * time.Minute // before what has failed is tried again
)

// queueWorker works a queue off.
type queueWorker struct {
	*pusher
	queue queue
	tried map[string]bool // entries that have failed and stay in the queue
}

// workOff pushes what is queued, each entry once.
func (w *queueWorker) workOff(ctx context.Context) error {
	var failures []error
	for {
		n, err := w.pass(ctx)
		if ctx.Err() != nil {
			return hint(errors.New("push: stopped"), "the rest stays queued")
		}
		if err != nil {
			failures = append(failures, err)
		}
		if n == 0 {
			break
		}
	}
	err := errors.Join(failures...)
	if err == nil || errors.Is(err, upload.ErrDenied) {
		return w.advise(err)
	}
	return hint(fmt.Errorf("push: %w", err), fmt.Sprintf("what was set aside is in %s, the rest stays queued",
		filepath.Join(w.queue.dir, asideDir)))
}

// watch pushes what is queued, and what newPaths finds, until ctx ends. What fails is tried again later.
func (w *queueWorker) watch(ctx context.Context, newPaths registrations, drv bool) error {
	w.shown.line("watching %s, pushing to %s", w.queue.dir, w.client)
	rest := minQueueRest
	var again time.Time // when what has failed is tried again
	for {
		if err := w.enqueue(ctx, newPaths, drv); err != nil && ctx.Err() == nil {
			w.shown.line("the store could not be asked for new paths: %v", err)
		}
		if !again.IsZero() && !time.Now().Before(again) {
			clear(w.tried)
			again = time.Time{}
		}
		n, err := w.pass(ctx)
		switch {
		case ctx.Err() != nil:
			w.shown.end()
			return nil // told to stop
		case err != nil:
			w.shown.line("%v", err)
		case n > 0 && len(w.tried) == 0:
			rest = minQueueRest
		}
		if len(w.tried) > 0 && again.IsZero() {
			again = time.Now().Add(rest)
			rest = min(2*rest, maxQueueRest)
		}
		if n > 0 && err == nil {
			continue
		}
		select {
		case <-time.After(queuePoll):
		case <-ctx.Done():
		}
	}
}

// enqueue puts the store's new paths into the queue. They count as seen once they are there.
func (w *queueWorker) enqueue(ctx context.Context, newPaths registrations, drv bool) error {
	if newPaths == nil {
		return nil
	}
	paths, seen, err := newPaths(ctx)
	if err != nil {
		return err
	}
	var wanted []narinfo.StorePath
	for _, path := range paths {
		if drv || !strings.HasSuffix(string(path), ".drv") {
			wanted = append(wanted, path)
		}
	}
	if len(wanted) > 0 {
		if err := w.queue.add(wanted); err != nil {
			return err
		}
	}
	return seen()
}

// pass pushes the oldest entries that nobody else has, and returns how many there were. Its error names what has failed.
func (w *queueWorker) pass(ctx context.Context) (int, error) {
	entries, err := w.queue.claim(entriesAtOnce, w.tried)
	if err != nil {
		return 0, err
	}
	good, failures := w.sort(ctx, entries)
	if len(good) == 0 {
		return len(entries), errors.Join(failures...)
	}
	var roots []narinfo.StorePath
	for _, e := range good {
		roots = append(roots, e.paths...)
	}
	report, err := w.client.Push(ctx, w.source.Store, roots...)
	sent := w.shown.end()
	if !report.Complete {
		// Nobody's fault in particular: the server cannot be reached, or denies it.
		w.keep(good...)
		return len(entries), errors.Join(append(failures, err)...)
	}
	for _, e := range good {
		if err := w.settle(e, report); err != nil {
			failures = append(failures, err)
		}
	}
	w.shown.line("pushed %d paths for %d builds, %s sent", len(report.Pushed), len(good), megabytes(sent))
	return len(entries), errors.Join(failures...)
}

// keep leaves entries in the queue, for another time.
func (w *queueWorker) keep(entries ...*entry) {
	for _, e := range entries {
		w.tried[e.name] = true
	}
	release(entries)
}

// sort sets bad entries aside, and returns those that can be pushed.
func (w *queueWorker) sort(ctx context.Context, entries []*entry) (good []*entry, failures []error) {
	for _, e := range entries {
		err := e.bad
		if err == nil {
			_, err = store.Closure(ctx, w.source.Store, e.paths...)
		}
		switch {
		case err == nil:
			good = append(good, e)
		case e.bad != nil || errors.Is(err, store.ErrNotFound):
			failures = append(failures, w.setAside(e, err))
		default:
			w.keep(e)
			failures = append(failures, fmt.Errorf("%s: %w", e.name, err))
		}
	}
	return good, failures
}

func (w *queueWorker) setAside(e *entry, why error) error {
	failure := fmt.Errorf("%s was set aside: %w", e.name, why)
	if err := e.setAside(why); err != nil {
		w.tried[e.name] = true // it is still there
		return errors.Join(failure, err)
	}
	return failure
}

// settle decides what becomes of an entry that was pushed or has failed.
func (w *queueWorker) settle(e *entry, report *upload.Report) error {
	var failures []error
	hopeless := false
	for _, path := range e.paths {
		if cause, err := causeOf(report, path); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", cause, err))
			hopeless = hopeless || isHopeless(err)
		}
	}
	err := errors.Join(failures...)
	switch {
	case err == nil:
		return e.done()
	case hopeless:
		return w.setAside(e, err)
	}
	w.keep(e)
	return fmt.Errorf("%s: %w", e.name, err)
}

// causeOf finds the path because of which another has failed.
func causeOf(report *upload.Report, path narinfo.StorePath) (narinfo.StorePath, error) {
	for {
		err := report.Failed[path]
		reference, ok := errors.AsType[*upload.ReferenceError](err)
		if !ok {
			return path, err
		}
		path = reference.Reference
	}
}

// isHopeless reports a failure that will be the same the next time: the server does not want this very path, or its
// content is not what it should be.
func isHopeless(err error) bool {
	if status, ok := errors.AsType[*upload.StatusError](err); ok {
		return status.Status >= 400 && status.Status < 500 && status.Status != http.StatusConflict &&
			status.Status != http.StatusRequestTimeout && status.Status != http.StatusTooManyRequests
	}
	return errors.Is(err, store.ErrCorrupt)
}
