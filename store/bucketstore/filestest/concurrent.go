package filestest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

// testConcurrentPuts has several write one key, while others read it: all see one of the contents, whole.
func testConcurrentPuts(t *testing.T, f bucketstore.Files) {
	var contents [][]byte
	// One alone is so large that it takes a second request: versitygw looks at a name once for the ETag that the request
	// must match, and again for the bytes, which may be another object's by then.
	for i, size := range []int{100, 100, 70000, 200_000, 200_000, 9 * MiB} {
		contents = append(contents, Content(uint64(i), size))
	}
	isOne := func(b []byte) bool {
		return slices.ContainsFunc(contents, func(c []byte) bool { return bytes.Equal(b, c) })
	}
	var g errgroup.Group
	for _, content := range contents {
		g.Go(func() error {
			for range 3 {
				state, err := f.Put(t.Context(), "a", bytes.NewReader(content), -1)
				if err != nil {
					return err
				}
				if state.Size != int64(len(content)) {
					return fmt.Errorf("put %d bytes, and the state has %d", len(content), state.Size)
				}
			}
			return nil
		})
	}
	for range 2 {
		g.Go(func() error {
			read1 := func() error {
				b, _, err := read(t.Context(), f, "a")
				if errors.Is(err, store.ErrNotFound) || err != nil && b != nil {
					return nil // not yet; or replaced, which may be an error
				}
				if err != nil {
					return err
				}
				if !isOne(b) {
					return fmt.Errorf("%d bytes that nobody has put", len(b))
				}
				return nil
			}
			for range 10 {
				if err := read1(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	b, _, err := read(t.Context(), f, "a")
	require.NoError(t, err)
	require.True(t, isOne(b), "%d bytes that nobody has put", len(b))
	require.Equal(t, []string{"a"}, list(t, f, ""))
}

// testConcurrentUse has each do all there is to do, with keys of its own in folders of all.
func testConcurrentUse(t *testing.T, f bucketstore.Files) {
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			key := fmt.Sprintf("nar/%d/a", i)
			for round := range 5 {
				if err := useOnce(t, f, key, Content(uint64(i*10+round), 1000*i+round)); err != nil {
					return fmt.Errorf("%s, round %d: %w", key, round, err)
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	require.Empty(t, list(t, f, ""))
}

func useOnce(t *testing.T, f bucketstore.Files, key string, content []byte) error {
	if _, err := f.Put(t.Context(), key, bytes.NewReader(content), int64(len(content))); err != nil {
		return err
	}
	got, _, err := read(t.Context(), f, key)
	if err != nil {
		return err
	}
	if !bytes.Equal(content, got) {
		return fmt.Errorf("%d other bytes", len(got))
	}
	found := false
	for e, err := range f.List(t.Context(), "nar/") {
		if err != nil {
			return err
		}
		found = found || e.Key == key
	}
	if !found {
		return errors.New("not listed")
	}
	if err := f.Remove(t.Context(), key); err != nil {
		return err
	}
	if _, err := f.Open(t.Context(), key); !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("removed, and then %w", err)
	}
	return nil
}
