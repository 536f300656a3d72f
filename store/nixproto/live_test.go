package nixproto_test

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

func TestRealDaemons(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			d := startDaemon(t, realnix.Get(t, release))
			if *update {
				record(t, d)
				recordServe(t, emptyStore(t, d.nix))
			}
			pool := nixproto.NewPool(func(ctx context.Context) (*nixproto.Client, error) {
				return nixproto.Dial(ctx, d.socket, nil)
			}, nil)
			defer pool.Close()
			t.Run("path info", func(t *testing.T) { comparePathInfo(t, d, pool) })
			t.Run("queries", func(t *testing.T) { compareQueries(t, d, pool) })
			t.Run("NAR", func(t *testing.T) { compareNAR(t, d, pool) })
			t.Run("concurrent", func(t *testing.T) { queryConcurrently(t, d, pool) })
		})
	}
}

// nixPathInfo is one element of `nix path-info --json`.
type nixPathInfo struct {
	Path             narinfo.StorePath // in the key, since 2.26
	NarHash          string
	NarSize          int64
	References       []narinfo.StorePath
	Deriver          narinfo.StorePath
	Signatures       []string
	RegistrationTime int64
	Ultimate         bool
	CA               string
}

func comparePathInfo(t *testing.T, d *realDaemon, pool *nixproto.Pool) {
	for _, path := range []narinfo.StorePath{d.Base, d.Top, d.Doc, d.TopDrv, d.Addressed} {
		want := d.pathInfo(t, path)
		got, err := pool.PathInfo(t.Context(), path)
		require.NoError(t, err, path)
		slices.Sort(want.References)
		if len(want.References) == 0 {
			want.References = nil
		}
		if len(want.Signatures) == 0 {
			want.Signatures = nil
		}
		require.Equal(t, want, likeNix(got), path)
	}
	_, err := pool.PathInfo(t.Context(), absent)
	require.ErrorIs(t, err, store.ErrNotFound)
}

// likeNix gives a path's metadata as Nix prints it.
func likeNix(i *nixproto.PathInfo) nixPathInfo {
	like := nixPathInfo{
		Path: i.Info.StorePath, NarHash: i.Info.NarHash.SRI(), NarSize: i.Info.NarSize, References: i.Info.References,
		Deriver: i.Info.Deriver, RegistrationTime: i.RegistrationTime.Unix(), Ultimate: i.Ultimate,
		CA: string(i.Info.CA),
	}
	for _, s := range i.Info.Signatures {
		like.Signatures = append(like.Signatures, string(s))
	}
	return like
}

// pathInfo asks Nix itself. 2.8 prints a list, later releases an object by path.
func (d *realDaemon) pathInfo(t *testing.T, path narinfo.StorePath) nixPathInfo {
	t.Helper()
	args := []string{"path-info", "--json", string(path)}
	if path.IsDerivation() {
		args = append(args, "--derivation") // rather than its outputs
	}
	text := d.run(t, "nix", args...)
	var list []nixPathInfo
	if json.Unmarshal([]byte(text), &list) == nil {
		return list[0]
	}
	var object map[narinfo.StorePath]nixPathInfo
	require.NoError(t, json.Unmarshal([]byte(text), &object), text)
	info := object[path]
	info.Path = path
	return info
}

func compareQueries(t *testing.T, d *realDaemon, pool *nixproto.Pool) {
	ctx := t.Context()
	path, err := pool.PathFromHashPart(ctx, d.Top.HashPart())
	require.NoError(t, err)
	require.Equal(t, d.Top, path)

	referrers, err := pool.Referrers(ctx, d.Top)
	require.NoError(t, err)
	require.Equal(t, parsePaths(t, d.run(t, "nix-store", "-q", "--referrers", string(d.Top))), referrers)

	all, err := pool.AllValidPaths(ctx)
	require.NoError(t, err)
	require.Equal(t, parsePaths(t, d.run(t, "nix", "path-info", "--all")), all)

	derivers, err := pool.ValidDerivers(ctx, d.Doc)
	require.NoError(t, err)
	require.Equal(t, []narinfo.StorePath{d.TopDrv}, derivers)

	outputs, err := pool.DerivationOutputs(ctx, d.TopDrv)
	require.NoError(t, err)
	require.Equal(t, map[string]narinfo.StorePath{"out": d.Top, "doc": d.Doc}, outputs)

	text, err := pool.Realisation(ctx, d.RealisationID)
	require.NoError(t, err)
	var realisation struct{ ID, OutPath string }
	require.NoError(t, json.Unmarshal(text, &realisation))
	require.Equal(t, d.RealisationID, realisation.ID)
	require.Equal(t, d.Addressed.Base(), realisation.OutPath)
}

func compareNAR(t *testing.T, d *realDaemon, pool *nixproto.Pool) {
	for _, path := range []narinfo.StorePath{d.Base, d.Top, d.Doc, d.TopDrv} {
		nar, err := pool.NARFromPath(t.Context(), path)
		require.NoError(t, err, path)
		got, err := io.ReadAll(nar)
		require.NoError(t, err, path)
		require.NoError(t, nar.Close())
		dump, err := d.command(t, "nix-store", "--dump", string(path)).Output()
		require.NoError(t, err, path)
		require.Equal(t, dump, got, path)
	}
}

func queryConcurrently(t *testing.T, d *realDaemon, pool *nixproto.Pool) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 16 {
		wg.Go(func() {
			for range 20 {
				path, err := pool.PathFromHashPart(t.Context(), d.Top.HashPart())
				if err != nil || path != d.Top {
					t.Errorf("got %q, %v", path, err)
					return
				}
			}
		})
	}
}
