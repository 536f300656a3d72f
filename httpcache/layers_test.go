package httpcache_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// far is a store elsewhere, that keeps plain archives, and cannot be asked while it is broken.
type far struct {
	*storetest.Memory
	broken bool
	opened int
}

func (f *far) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	switch {
	case store.IsLocalOnly(ctx):
		return nil, store.ErrNotFound
	case f.broken:
		return nil, errors.New("broken")
	}
	info, err := f.Memory.Info(ctx, hash)
	if err == nil {
		info.URL, info.Compression = "nar/x.nar", "none"
	}
	return info, err
}

func (f *far) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	f.opened++
	return f.Memory.Open(ctx, info)
}

func (f *far) OpenArchive(context.Context, *narinfo.Info) (*store.File, error) {
	panic("an uncompressed archive is read as the NAR")
}

// eager offers an artefact of everything.
type eager struct{ httpcache.Artefacts }

func (eager) Encoder() string             { return "x" }
func (eager) Describe(*narinfo.Info) bool { return true }

func TestStoresElsewhere(t *testing.T) {
	near, there := newWorld(), &far{Memory: &storetest.Memory{}}
	p := there.Add("far", storetest.Files{"file": "content"})
	layers, err := store.NewLayered([]store.Store{near}, []store.Store{there})
	require.NoError(t, err)
	h := newHandler(t, layers, &httpcache.Options{Artefacts: eager{}})
	hash := string(p.StorePath.HashPart())
	head := func(path string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodHead, path, nil))
		return w.Code
	}

	// What is kept there is not compressed here; what is here is.
	require.Contains(t, body(t, get(h, "/"+hash+".narinfo")), "\nCompression: none\n")
	require.Contains(t, body(t, get(h, "/"+string(near.lib.StorePath.HashPart())+".narinfo")), "\nCompression: zstd\n")

	// A HEAD does not fetch an archive to look into it.
	require.Equal(t, http.StatusOK, head("/"+hash+".narinfo"))
	require.Equal(t, http.StatusOK, head("/nar/"+hash+".nar"))
	require.Equal(t, http.StatusNotFound, head("/"+hash+".ls"))
	require.Equal(t, http.StatusNotFound, head("/serve/"+hash+"/file"))
	require.Zero(t, there.opened)
	require.Equal(t, "content", body(t, get(h, "/serve/"+hash+"/file")))
	require.Equal(t, http.StatusOK, head("/"+string(near.lib.StorePath.HashPart())+".ls"))

	// Health is that of what is here.
	there.broken = true
	require.Equal(t, "ok\n", body(t, get(h, "/healthz")))
	require.Equal(t, http.StatusInternalServerError, get(h, "/"+absentHash+".narinfo").StatusCode)
}
