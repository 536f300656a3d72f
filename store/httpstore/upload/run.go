package upload

import (
	"context"
	"errors"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// run is one pass over what is missing. All but the work itself happens in the goroutine that called push.
type run struct {
	client *Client
	store  store.Store
	report *Report

	todo      []*narinfo.Info                           // whose archives are not begun, references first
	waiting   map[narinfo.StorePath]int                 // for how many paths and archives a path waits
	referrers map[narinfo.StorePath][]narinfo.StorePath // among what is missing
	ready     []*narinfo.Info                           // to be published
	packed    map[narinfo.StorePath]*narinfo.Info       // whose archives are uploaded
}

// result is a step that has ended: the path is published, or its archive is uploaded.
type result struct {
	path   narinfo.StorePath
	packed *narinfo.Info // nil: it is published
	err    error
}

func newRun(c *Client, s store.Store, missing []*narinfo.Info, report *Report) *run {
	r := &run{client: c, store: s, report: report, todo: missing, waiting: make(map[narinfo.StorePath]int, len(missing)),
		referrers: make(map[narinfo.StorePath][]narinfo.StorePath), packed: make(map[narinfo.StorePath]*narinfo.Info)}
	for _, info := range missing {
		r.waiting[info.StorePath] = 1 // its archive
	}
	for _, info := range missing {
		for _, reference := range info.References {
			if _, ok := r.waiting[reference]; ok && reference != info.StorePath {
				r.waiting[info.StorePath]++
				r.referrers[reference] = append(r.referrers[reference], info.StorePath)
			}
		}
	}
	return r
}

// push does all that can be done. Its error ends everything; that of a path is in the report.
func (r *run) push(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	results := make(chan result)
	var stop error
	for running := 0; ; running-- {
		for stop == nil && running < r.client.opts.Jobs {
			step := r.next(ctx)
			if step == nil {
				break
			}
			running++
			go func() { results <- step() }()
		}
		if running == 0 {
			break
		}
		done := <-results
		if stop == nil && (ctx.Err() != nil || errors.Is(done.err, ErrDenied)) {
			if stop = parent.Err(); stop == nil {
				stop = done.err
			}
			cancel()
		}
		if stop == nil || done.err == nil {
			r.settle(done)
		}
	}
	if stop == nil {
		stop = parent.Err()
	}
	if stop == nil {
		r.failCircles()
	}
	return stop
}

// failCircles gives up what is neither published nor given up: paths that wait for each other, which no honest store has.
func (r *run) failCircles() {
	for path, left := range r.waiting {
		if left > 0 && r.report.Failed[path] == nil {
			r.fail(path, errCircle)
		}
	}
}

var errCircle = errors.New("upload: references run in a circle")

// next returns what is to be done next, nil if that is nothing, or nothing yet.
func (r *run) next(ctx context.Context) func() result {
	if n := len(r.ready); n > 0 {
		info := r.ready[n-1]
		r.ready = r.ready[:n-1]
		return func() result { return result{path: info.StorePath, err: r.client.publish(ctx, info)} }
	}
	for len(r.todo) > 0 {
		info := r.todo[0]
		r.todo = r.todo[1:]
		if r.report.Failed[info.StorePath] != nil {
			continue
		}
		return func() result {
			packed, err := r.client.pushArchive(ctx, r.store, info)
			return result{info.StorePath, packed, err}
		}
	}
	return nil
}

// settle notes what a step's end means for others.
func (r *run) settle(done result) {
	switch {
	case done.err != nil:
		r.fail(done.path, done.err)
	case done.packed != nil:
		r.packed[done.path] = done.packed
		r.advance(done.path)
	default:
		r.report.Pushed = append(r.report.Pushed, done.path)
		r.told(done.path, nil)
		for _, referrer := range r.referrers[done.path] {
			r.advance(referrer)
		}
	}
}

// advance takes one thing from what a path waits for.
func (r *run) advance(path narinfo.StorePath) {
	if r.waiting[path]--; r.waiting[path] == 0 {
		r.ready = append(r.ready, r.packed[path])
	}
}

// fail gives a path up, and all that refers to it.
func (r *run) fail(path narinfo.StorePath, err error) {
	if r.report.Failed[path] != nil {
		return
	}
	r.report.Failed[path] = err
	r.told(path, err)
	for queue := []narinfo.StorePath{path}; len(queue) > 0; queue = queue[1:] {
		for _, referrer := range r.referrers[queue[0]] {
			if r.report.Failed[referrer] == nil {
				r.report.Failed[referrer] = &ReferenceError{queue[0]}
				r.told(referrer, r.report.Failed[referrer])
				queue = append(queue, referrer)
			}
		}
	}
}

func (r *run) told(path narinfo.StorePath, err error) {
	if done := r.client.opts.Trace.Done; done != nil {
		done(path, err)
	}
}
