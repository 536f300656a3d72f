// Package background owns goroutines that outlive the call which started them.
package background

import (
	"context"
	"sync"
)

// Work is a set of goroutines. [Work.Stop] ends their context and waits for them. It is safe for concurrent use.
type Work struct {
	ctx    context.Context // of the goroutines
	cancel context.CancelFunc

	mu      sync.Mutex // guards stopped, and wg against an Add after Wait
	stopped bool
	wg      sync.WaitGroup
}

// New returns Work without a goroutine.
func New() *Work {
	w := &Work{}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// Context is what the goroutines get. It ends when [Work.Stop] is called.
func (w *Work) Context() context.Context { return w.ctx }

// Start runs f on a goroutine, unless [Work.Stop] was called.
func (w *Work) Start(f func(context.Context)) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return false
	}
	w.wg.Go(func() { f(w.ctx) })
	return true
}

// Stop ends the goroutines' context and waits for them. A second Stop does nothing more.
func (w *Work) Stop() {
	w.cancel()
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
	w.wg.Wait()
}
