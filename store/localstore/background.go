package localstore

import (
	"context"
	"sync"
)

// background owns the store's goroutines: stop ends their context and waits for them.
type background struct {
	ctx    context.Context // of work that outlives the call which started it
	cancel context.CancelFunc

	mu      sync.Mutex // guards stopped, and wg against an Add after Wait
	stopped bool
	wg      sync.WaitGroup
}

func (b *background) init() { b.ctx, b.cancel = context.WithCancel(context.Background()) }

// start runs f on a goroutine, unless stop was called.
func (b *background) start(f func(context.Context)) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return false
	}
	b.wg.Go(func() { f(b.ctx) })
	return true
}

func (b *background) stop() {
	b.cancel()
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.wg.Wait()
}

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

// do waits for the work on key, which b owns, and starts it if it is not under way.
func (f *flights[K, V]) do(
	ctx context.Context, b *background, key K, work func(context.Context) (V, error),
) (v V, err error) {
	f.mu.Lock()
	fl := f.running[key]
	if fl == nil {
		if fl = f.launch(b, key, work); fl == nil {
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
func (f *flights[K, V]) launch(b *background, key K, work func(context.Context) (V, error)) *flight[V] {
	fl := &flight[V]{done: make(chan struct{})}
	var ctx context.Context
	ctx, fl.cancel = context.WithCancel(b.ctx)
	started := b.start(func(context.Context) {
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
