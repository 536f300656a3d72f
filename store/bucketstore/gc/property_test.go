package gc_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/gc"
)

const (
	somePaths = 30
	lease     = 10 * time.Minute
	maxSize   = 1500
)

var someCaches = []string{"", "team"}

// errDied is what a process dies of.
var errDied = errors.New("died")

// fuse makes processes die at a file: before it is changed or after.
type fuse struct {
	*catalogtest.Bucket
	mu  sync.Mutex
	rng *rand.Rand // nil: none dies
	bad []string
}

// burn reports how a process dies, if it does: before or after the change, by panic, by its context, or by an error.
func (f *fuse) burn() (before, after func(cancel context.CancelFunc) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	live := func(context.CancelFunc) error { return nil }
	if f.rng == nil || f.rng.IntN(6) > 0 {
		return live, live
	}
	die := []func(context.CancelFunc) error{
		func(context.CancelFunc) error { panic(errDied) },
		func(cancel context.CancelFunc) error { cancel(); return nil },
		func(context.CancelFunc) error { return errDied },
	}[f.rng.IntN(3)]
	if f.rng.IntN(2) == 0 {
		return die, live
	}
	return live, die
}

func (f *fuse) change(ctx context.Context, cancel context.CancelFunc, change func() error) error {
	before, after := f.burn()
	if err := errors.Join(before(cancel), ctx.Err()); err != nil {
		return err
	}
	err := change()
	if broken := f.Broken(someCaches...); broken != nil {
		f.mu.Lock()
		f.bad = append(f.bad, broken...)
		f.mu.Unlock()
	}
	return errors.Join(err, after(cancel))
}

// process is one that may die at any change of a file.
type process struct {
	*catalog.Catalog
	f      *fuse
	rng    *rand.Rand
	cancel context.CancelFunc
	worst  []string
}

// Remove implements catalog.Remover.
func (p *process) Remove(ctx context.Context, key string) error {
	return p.f.change(ctx, p.cancel, func() error { return p.f.Bucket.Remove(ctx, key) })
}

// run does one thing, and survives its death.
func (p *process) run(t *testing.T, act func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(t.Context())
	p.cancel = cancel
	defer cancel()
	defer func() {
		if r := recover(); r != nil && r != any(errDied) {
			panic(r)
		}
	}()
	err := act(ctx)
	var missing *catalog.MissingError
	var kept *catalog.KeptError
	var locked *catalog.LockedError
	for _, fine := range []error{catalog.ErrDeleting, catalog.ErrPublishing, catalog.ErrNotFound, catalog.ErrNoArchive, errDied,
		catalog.ErrLeaseLost, context.Canceled} {
		if errors.Is(err, fine) {
			return
		}
	}
	if err != nil && !errors.As(err, &missing) && !errors.As(err, &kept) && !errors.As(err, &locked) {
		p.worst = append(p.worst, err.Error())
	}
}

// some is path n with one of two contents, which refer to other paths.
func some(n, variant int) *narinfo.Info {
	rng := rand.New(rand.NewPCG(uint64(n), uint64(variant)))
	var references []narinfo.StorePath
	for m := range n {
		if rng.IntN(n) < 3 {
			references = append(references, catalogtest.Path(m))
		}
	}
	if rng.IntN(3) == 0 {
		references = append(references, catalogtest.Path(n))
	}
	text := fmt.Sprintf("%d %d ", n, variant)
	if rng.IntN(8) == 0 {
		text = fmt.Sprint("common ", n/4) // shares its archive with others
	}
	return catalogtest.Info(catalogtest.Path(n), text+strings.Repeat(".", 20+rng.IntN(200)), references...)
}

// push pushes path n's closure as Nix does: it asks what is there, and sends the rest from below.
func (p *process) push(ctx context.Context, cache string, n, variant int) error {
	i := some(n, variant)
	var hashes []narinfo.HashPart
	for _, r := range i.References {
		if r != i.StorePath {
			hashes = append(hashes, r.HashPart())
		}
	}
	missing, err := p.Lease(ctx, cache, hashes, p.Now().Add(lease))
	if err != nil {
		return err
	}
	for m := range n {
		if slices.Contains(missing, catalogtest.Path(m).HashPart()) {
			if err := p.push(ctx, cache, m, p.rng.IntN(2)); err != nil {
				return err
			}
		}
	}
	u, err := p.BeginUpload(ctx, i.URL, lease)
	if err != nil {
		return err
	}
	if err := p.f.change(ctx, p.cancel, func() error { p.f.Put(i.URL, nil); return nil }); err != nil {
		return err
	}
	if err := p.AddArchive(ctx, u, cache, "me", catalogtest.Archive(i), lease); err != nil {
		return err
	}
	publication := p.f.Publication(cache, i)
	write := publication.Write
	publication.Write = func(ctx context.Context) error {
		return p.f.change(ctx, p.cancel, func() error { return write(ctx) })
	}
	err = p.Publish(ctx, publication)
	var absent *catalog.MissingError
	if errors.As(err, &absent) && len(missing) == 0 {
		p.worst = append(p.worst, "leased, and gone: "+err.Error())
	}
	return err
}

func (p *process) act(ctx context.Context) error {
	cache, n := someCaches[p.rng.IntN(len(someCaches))], p.rng.IntN(somePaths)
	path := catalogtest.Path(n)
	switch p.rng.IntN(12) {
	case 0, 1, 2, 3, 4:
		return p.push(ctx, cache, n, p.rng.IntN(2))
	case 5:
		p.Touch(cache, path.HashPart())
		return p.Flush(ctx)
	case 6:
		return p.Pin(ctx, cache, fmt.Sprint("pin ", p.rng.IntN(2)), path, "me", p.Now().Add(time.Duration(p.rng.IntN(100))*time.Minute))
	case 7:
		return p.Unpin(ctx, cache, fmt.Sprint("pin ", p.rng.IntN(2)))
	case 8:
		return p.DeletePath(ctx, cache, path.HashPart(), catalog.Deletion{Files: p, Parallel: 1})
	}
	o := gc.Options{MaxSize: maxSize, Parallel: 1, Batch: 1 + p.rng.IntN(5), Look: p.f.Look}
	if p.rng.IntN(2) == 0 {
		o = gc.Options{KeepUsed: 20 * time.Minute, Parallel: 1, Batch: 1 + p.rng.IntN(5), Look: p.f.Look}
	}
	_, err := gc.Collect(ctx, p.Catalog, p, o)
	return err
}

// Pushers, users and collectors work side by side and die in all sorts of places. At every change of a file the bucket
// is whole to whoever reads it; in the end nothing is left that the catalog does not know, nor the other way round.
func TestNothingKeptIsEverBroken(t *testing.T) {
	catalogtest.OnEach(t, func(t *testing.T, db catalogtest.Database) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		rounds := 12
		if os.Getenv("NIXTRAP_SOAK") != "" {
			rounds = 300
		}
		clock := catalogtest.NewClock()
		rng := rand.New(rand.NewPCG(seed, 0))
		f := &fuse{Bucket: catalogtest.NewBucket(), rng: rand.New(rand.NewPCG(seed, 1))}
		var processes []*process
		for n := range 5 {
			processes = append(processes, &process{
				Catalog: db.Open(t, &catalog.Options{Now: clock.Now}), f: f, rng: rand.New(rand.NewPCG(seed, uint64(2+n))),
			})
		}
		for range rounds {
			var working sync.WaitGroup
			for _, p := range processes {
				working.Go(func() {
					for range 10 {
						p.run(t, p.act)
						clock.Advance(100 * time.Millisecond)
					}
				})
			}
			working.Wait()
			require.Empty(t, f.bad)
			for _, p := range processes {
				require.Empty(t, p.worst)
			}
			requirePinned(t, processes[0], f)
			clock.Advance([]time.Duration{time.Second, time.Minute, lease, time.Hour}[rng.IntN(4)])
		}
		f.rng = nil
		clock.Advance(24 * time.Hour)
		requireSettled(t, processes[0], f)
	})
}

// requirePinned checks that what is pinned is there with all that it refers to.
func requirePinned(t *testing.T, p *process, f *fuse) {
	t.Helper()
	files := f.Files()
	for _, cache := range someCaches {
		pins, err := p.Pins(t.Context(), cache)
		require.NoError(t, err)
		for _, pin := range pins {
			if pin.Expires.After(p.Now()) {
				require.Contains(t, files, catalog.NarinfoKey(cache, pin.Path.HashPart()))
			}
		}
	}
}

// requireSettled collects, twice, and compares the catalog with the bucket.
func requireSettled(t *testing.T, p *process, f *fuse) {
	t.Helper()
	p.cancel = func() {}
	for range 2 {
		r, err := gc.Collect(t.Context(), p.Catalog, p, gc.Options{MaxSize: maxSize, Look: f.Look})
		require.NoError(t, err)
		u, err := p.Usage(t.Context())
		require.NoError(t, err)
		require.LessOrEqual(t, u.Bytes, int64(maxSize)+r.Excess)
		require.Equal(t, u.Bytes, r.After)
		require.Zero(t, u.Unneeded)
	}
	known := make(map[string]bool)
	for _, cache := range someCaches {
		for path, err := range p.Paths(t.Context(), cache, "") {
			require.NoError(t, err)
			key := catalog.NarinfoKey(cache, path.StorePath.HashPart())
			known[key], known[path.Archive] = true, true
			i := f.Files()[key]
			require.NotNil(t, i, key)
			require.Equal(t, i.NarHash, path.NarHash)
			require.Equal(t, i.URL, path.Archive)
		}
	}
	for key := range f.Files() {
		require.True(t, known[key], "%s is nobody's", key)
	}
	require.Len(t, f.Files(), len(known))
	require.Empty(t, f.Broken(someCaches...))
	_, err := gc.Collect(t.Context(), p.Catalog, p, gc.Options{KeepUsed: time.Hour, Look: f.Look})
	require.NoError(t, err)
	require.Empty(t, f.Files())
}
