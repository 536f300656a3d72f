package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/voidnxlab/nixtrap/store"
)

// testConcurrent reads everything from 16 goroutines at once, each beginning elsewhere.
func testConcurrent(t *testing.T, f Fixture) {
	var g errgroup.Group
	for n := range 16 {
		g.Go(func() error {
			for k := range min(len(f.Entries), 20) {
				e := f.Entries[(n+k)%len(f.Entries)]
				if err := readEveryWay(t.Context(), f.Store, e); err != nil {
					return fmt.Errorf("%q: %w", e.Info.StorePath, err)
				}
			}
			_, err := f.Store.Info(t.Context(), absent(f)[0])
			if !errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("an absent path gives %w", err)
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
}

func readEveryWay(ctx context.Context, s store.Store, e Entry) error {
	i, err := s.Info(ctx, e.Info.StorePath.HashPart())
	if err != nil {
		return err
	}
	if err := errors.Join(sameInfo(e.Info, i), checkOpen(ctx, s, e)); err != nil {
		return err
	}
	if _, err := store.Layout(ctx, s, i); err != nil {
		return err
	}
	r, err := store.OpenRange(ctx, s, i, i.NarSize/2, i.NarSize/4)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, r)
	if n != i.NarSize/4 {
		err = errors.Join(err, fmt.Errorf("a range of %d bytes has %d", i.NarSize/4, n))
	}
	return errors.Join(err, r.Close())
}

// testCancelled uses contexts that end: nothing may hang, pass for absent or give wrong bytes.
func testCancelled(t *testing.T, f Fixture) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, e := range f.Entries {
		i := info(t, f, e)
		if _, err := f.Store.Info(ended, i.StorePath.HashPart()); err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
		if err := checkOpen(ended, f.Store, e); err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}
		if _, err := store.Layout(ended, f.Store, i); err != nil {
			require.ErrorIs(t, err, context.Canceled)
		}

		ctx, cancel := context.WithCancel(t.Context())
		r, err := f.Store.Open(ctx, i)
		require.NoError(t, err)
		_, err = io.ReadFull(r, make([]byte, 16))
		require.NoError(t, err)
		cancel()
		rest, err := io.Copy(io.Discard, r)
		if err == nil {
			require.Equal(t, i.NarSize, 16+rest, "what ends well is whole")
		}
		require.NoError(t, r.Close())
	}
	if l, ok := f.Store.(store.Lister); ok {
		for _, err := range l.Paths(ended) {
			if err != nil {
				require.ErrorIs(t, err, context.Canceled)
			}
		}
	}
}

// testCloseEarly closes readers at once, after a byte and after all, and counts what is left.
func testCloseEarly(t *testing.T, f Fixture) {
	openAndClose := func() {
		for _, e := range f.Entries[:min(len(f.Entries), 10)] {
			i := info(t, f, e)
			for _, n := range []int64{0, 1, i.NarSize / 2, i.NarSize} {
				r, err := f.Store.Open(t.Context(), i)
				require.NoError(t, err)
				_, err = io.CopyN(io.Discard, r, n)
				require.NoError(t, err)
				require.NoError(t, r.Close())
				r, err = store.OpenRange(t.Context(), f.Store, i, n/2, n/4)
				require.NoError(t, err)
				require.NoError(t, r.Close())
			}
			if o, ok := f.Store.(store.ArchiveOpener); ok && i.URL != "" {
				file, err := o.OpenArchive(t.Context(), i)
				require.NoError(t, err)
				require.NoError(t, file.Close())
			}
		}
	}
	openAndClose() // whatever the store keeps open for its own use is now open
	fds, goroutines := descriptors(), runtime.NumGoroutine()
	for range 10 {
		openAndClose()
	}
	require.Eventually(t, func() bool {
		return descriptors() <= fds && runtime.NumGoroutine() <= goroutines+1 // Eventually's own
	}, 5*time.Second, 10*time.Millisecond, "there were %d descriptors and %d goroutines", fds, goroutines)
}

// descriptors counts the process's open descriptors; 0 where there is no /proc.
func descriptors() int {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(names)
}
