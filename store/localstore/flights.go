package localstore

import (
	"context"
	"sync"

	"github.com/voidnxlab/nixtrap/internal/background"
)

// flights run one piece of work per key at a time, for all who ask for it meanwhile.
// Work ends early when all of them have gone.
type flights[K comparable, V any] struct {
	mu      sync.Mutex // guards running and the waiters of each
	running map[K]*flight[V]
}

type flight[V any] struct {
	done    chan struct{} // closed when v and err are set
	cancel  context.CancelFunc
	waiters int
	v       V
	err     error
}

// do waits for the work on key, which w owns, and starts it if it is not under way.
func (f *flights[K, V]) do(
	ctx context.Context, w *background.Work, key K, work func(context.Context) (V, error),
) (v V, err error) {
	f.mu.Lock()
	fl := f.running[key]
	if fl == nil {
		if fl = f.launch(w, key, work); fl == nil {
			f.mu.Unlock()
			return v, errClosed
		}
	}
	fl.waiters++
	f.mu.Unlock()
	select {
	case <-fl.done:
		return fl.v, fl.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiters--; fl.waiters == 0 {
		fl.cancel()
		f.forget(key, fl)
	}
	return v, ctx.Err()
}

// launch starts work. It is called with mu held.
func (f *flights[K, V]) launch(w *background.Work, key K, work func(context.Context) (V, error)) *flight[V] {
	fl := &flight[V]{done: make(chan struct{})}
	var ctx context.Context
	ctx, fl.cancel = context.WithCancel(w.Context())
	started := w.Start(func(context.Context) {
		defer fl.cancel()
		fl.v, fl.err = work(ctx)
		f.mu.Lock()
		f.forget(key, fl)
		f.mu.Unlock()
		close(fl.done)
	})
	if !started {
		fl.cancel()
		return nil
	}
	if f.running == nil {
		f.running = make(map[K]*flight[V])
	}
	f.running[key] = fl
	return fl
}

func (f *flights[K, V]) forget(key K, fl *flight[V]) {
	if f.running[key] == fl {
		delete(f.running, key)
	}
}
