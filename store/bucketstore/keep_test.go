package bucketstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/archivetest"
	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// shelf is an empty bucket with an inbox that keeps.
type shelf struct {
	*bucketstore.Store
	keeper *bucketstore.Keeper
	dir    string
}

func newShelf(t *testing.T, o *bucketstore.InboxOptions) *shelf {
	t.Helper()
	s := &shelf{dir: t.TempDir()}
	c := catalogtest.SQLite(filepath.Join(t.TempDir(), "catalog.sqlite")).Open(t, nil)
	var err error
	s.Store, err = bucketstore.Create(s.dir, narinfo.CacheInfo{}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.keeper = &bucketstore.Keeper{Inbox: bucketstore.NewInbox(s.Store, c, o), From: "https://example.org/", Elsewhere: everything}
	return s
}

// everything is elsewhere.
func everything(context.Context, []narinfo.StorePath) ([]narinfo.StorePath, error) { return nil, nil }

func (s *shelf) files(t *testing.T) (all []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(s.dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			all = append(all, strings.TrimPrefix(name, s.dir+"/"))
		}
		return err
	}))
	return all
}

// foreign is a path as another cache has it, and its archive.
func foreign(t *testing.T, e storetest.Entry, compression string) (*narinfo.Info, []byte) {
	t.Helper()
	info, archive := e.Info.Clone(), archivetest.Compress(t, compression, e.NAR)
	info.URL, info.Compression, info.FileHash, info.FileSize = "nar/some/where.nar?x=1", compression, sha(t, archive), int64(len(archive))
	return info, archive
}

func TestWhatIsKeptIsTheSamePath(t *testing.T) {
	key, err := signing.GenerateKey("theirs-1")
	require.NoError(t, err)
	for _, compression := range []string{"none", "zstd", "xz", "gzip"} {
		for name, change := range map[string]func(*narinfo.Info){
			"whole":            func(*narinfo.Info) {},
			"without FileHash": func(i *narinfo.Info) { i.FileHash, i.FileSize = narinfo.Hash{}, 0 },
		} {
			t.Run(compression+"/"+name, func(t *testing.T) {
				s := newShelf(t, &bucketstore.InboxOptions{TempDir: t.TempDir()})
				e := sample().Entries()[0]
				info, archive := foreign(t, e, compression)
				info.Sign(key)
				change(info)
				require.NoError(t, s.keeper.Receive(t.Context(), info.Clone(), bytes.NewReader(archive)))
				got, err := s.Info(t.Context(), info.StorePath.HashPart())
				require.NoError(t, err)
				require.Equal(t, sha(t, archive), got.FileHash)
				require.EqualValues(t, len(archive), got.FileSize)
				require.Equal(t, "nar/"+got.FileHash.Base32(), got.URL[:len("nar/")+52])
				require.Equal(t, info.Signatures, got.Signatures)
				require.Equal(t, info.References, got.References)
				require.NoError(t, store.Verify(t.Context(), s, got))
				require.Len(t, s.files(t), 3)
			})
		}
	}
}

func TestNothingIsKeptOf(t *testing.T) {
	e := sample().Entries()[0]
	other := sample().Entries()[1]
	broken := errors.New("broken")
	for name, row := range map[string]struct {
		change    func(*narinfo.Info)
		archive   func(io.Reader) io.Reader
		elsewhere bucketstore.Elsewhere
		options   bucketstore.InboxOptions
		refused   bool
		is        error
	}{
		"an archive that fails at its end": {is: broken, archive: func(r io.Reader) io.Reader {
			return io.MultiReader(r, iotest.ErrReader(broken))
		}},
		"the same without FileHash": {is: broken, archive: func(r io.Reader) io.Reader {
			return io.MultiReader(r, iotest.ErrReader(broken))
		}, change: func(i *narinfo.Info) { i.FileHash = narinfo.Hash{} }},
		"an archive that ends early": {refused: true, archive: func(r io.Reader) io.Reader { return io.LimitReader(r, 100) }},
		"another NAR":                {refused: true, change: func(i *narinfo.Info) { i.NarHash = other.Info.NarHash }},
		"a NAR of another size":      {refused: true, change: func(i *narinfo.Info) { i.NarSize++ }},
		"a smaller NAR":              {refused: true, change: func(i *narinfo.Info) { i.NarSize -= 8 }},
		"another file":               {refused: true, change: func(i *narinfo.Info) { i.FileHash = other.Info.NarHash }},
		"an unknown compression":     {refused: true, change: func(i *narinfo.Info) { i.Compression = "br" }},
		"another compression":        {refused: true, change: func(i *narinfo.Info) { i.Compression = "gzip" }},
		"a path of another store":    {refused: true, change: func(i *narinfo.Info) { i.StorePath = "/gnu/store" + i.StorePath[len("/nix/store"):] }},
		"a path of another address":  {refused: true, change: func(i *narinfo.Info) { i.CA = "fixed:r:" + narinfo.ContentAddress(i.NarHash.String()) }},
		"a long archive":             {refused: true, options: bucketstore.InboxOptions{MaxArchive: 100}},
		"a long archive without FileHash": {refused: true, options: bucketstore.InboxOptions{MaxArchive: 100},
			change: func(i *narinfo.Info) { i.FileHash = narinfo.Hash{} }},
		"a large NAR":              {refused: true, options: bucketstore.InboxOptions{MaxNAR: 100}},
		"anything in a full cache": {refused: true, options: bucketstore.InboxOptions{Full: func() bool { return true }}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t, &row.options)
			info, archive := foreign(t, e, "zstd")
			if row.change != nil {
				row.change(info)
			}
			var r io.Reader = bytes.NewReader(archive)
			if row.archive != nil {
				r = row.archive(r)
			}
			err := s.keeper.Receive(t.Context(), info, r)
			if row.is != nil {
				require.ErrorIs(t, err, row.is)
			}
			_, refused := errors.AsType[*store.RefusedError](err)
			require.Equal(t, row.refused, refused, "%v", err)
			require.Equal(t, []string{"nix-cache-info"}, s.files(t))
		})
	}
}

func TestWhatIsKeptHasItsReferencesSomewhere(t *testing.T) {
	entries := sample().Entries()
	var user storetest.Entry
	for _, e := range entries {
		if len(e.Info.References) == 1 {
			user = e
		}
	}
	s := newShelf(t, nil)
	info, archive := foreign(t, user, "zstd")
	var asked []narinfo.StorePath
	s.keeper.Elsewhere = func(_ context.Context, paths []narinfo.StorePath) ([]narinfo.StorePath, error) {
		asked = paths
		return paths, nil
	}
	err := s.keeper.Receive(t.Context(), info.Clone(), bytes.NewReader(archive))
	refused, ok := errors.AsType[*store.RefusedError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, store.Incomplete, refused.Why)
	require.Equal(t, user.Info.References, asked)
	_, err = s.Info(t.Context(), info.StorePath.HashPart())
	require.ErrorIs(t, err, store.ErrNotFound)

	broken := errors.New("broken")
	s.keeper.Elsewhere = func(context.Context, []narinfo.StorePath) ([]narinfo.StorePath, error) { return nil, broken }
	require.ErrorIs(t, s.keeper.Receive(t.Context(), info.Clone(), bytes.NewReader(archive)), broken)

	s.keeper.Elsewhere = everything
	require.NoError(t, s.keeper.Receive(t.Context(), info.Clone(), bytes.NewReader(archive)))
	_, err = s.Info(t.Context(), info.StorePath.HashPart())
	require.NoError(t, err)
}

// What somebody has uploaded is not replaced by what an upstream has of that name, and is not read either.
func TestWhatIsThereIsNotKeptAgain(t *testing.T) {
	s := newShelf(t, nil)
	e, other := sample().Entries()[0], sample().Entries()[1]
	info, archive := foreign(t, e, "zstd")
	require.NoError(t, s.keeper.Receive(t.Context(), info, bytes.NewReader(archive)))
	before := s.files(t)
	unread := iotest.ErrReader(errors.New("read"))
	replacement, _ := foreign(t, other, "xz")
	replacement.StorePath = e.Info.StorePath
	require.NoError(t, s.keeper.Receive(t.Context(), replacement, unread))
	require.Equal(t, before, s.files(t))

	// Damage is mended, whoever had it first.
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, info.URL), []byte("damage"), 0o644))
	_, err := s.Info(t.Context(), info.StorePath.HashPart())
	require.ErrorIs(t, err, store.ErrNotFound)
	again, _ := foreign(t, e, "zstd")
	require.NoError(t, s.keeper.Receive(t.Context(), again, bytes.NewReader(archive)))
	got, err := os.ReadFile(filepath.Join(s.dir, info.URL))
	require.NoError(t, err)
	require.Equal(t, archive, got)
}

func TestManyKeepTheSame(t *testing.T) {
	s := newShelf(t, nil)
	info, archive := foreign(t, sample().Entries()[0], "xz")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := s.keeper.Receive(t.Context(), info.Clone(), iotest.HalfReader(bytes.NewReader(archive))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got, err := s.Info(t.Context(), info.StorePath.HashPart())
	require.NoError(t, err)
	require.NoError(t, store.Verify(t.Context(), s, got))
}
