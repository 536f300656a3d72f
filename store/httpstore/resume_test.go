package httpstore_test

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/httpstore"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// cutter ends a response after some bytes of its body, as a connection that breaks does.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	n, _ := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

func (c *cutter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// cut has every answer below nar/ cut after n bytes. edit may change a request or the header of its answer before.
func (u *upstream) cut(n int, edit func(w http.ResponseWriter, r *http.Request)) http.HandlerFunc {
	var inner http.HandlerFunc
	inner = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path[:5] != "/nar/" {
			return
		}
		u.interfere(func(w http.ResponseWriter, r *http.Request) {
			if edit != nil {
				edit(w, r)
			}
		})
		defer u.interfere(inner)
		u.ServeHTTP(&cutter{w, n}, r)
	}
	return inner
}

// resumed is a store over an upstream with one path, whose answers are cut, and the number of resumptions.
func resumed(t *testing.T, n int, o func(*httpstore.Options), edit func(http.ResponseWriter, *http.Request),
) (*httpstore.Store, storetest.Entry, *narinfo.Info, *atomic.Int32) {
	e := sample().Entries()[0]
	for _, other := range sample().Entries() {
		if other.Info.NarSize > e.Info.NarSize {
			e = other
		}
	}
	u := newUpstream(t, "none", []storetest.Entry{e}, nil)
	opts := u.options()
	count := &atomic.Int32{}
	opts.Trace = &httpstore.Trace{Resumed: func() { count.Add(1) }}
	if o != nil {
		o(opts)
	}
	s := bubble(t, u, opts)
	info := infoOf(t, s, e)
	u.interfere(u.cut(n, edit))
	return s, e, info, count
}

func TestCutArchivesAreTakenUpAgain(t *testing.T) {
	for name, read := range map[string]func(context.Context, *httpstore.Store, *narinfo.Info) ([]byte, error){
		"archive": func(ctx context.Context, s *httpstore.Store, i *narinfo.Info) ([]byte, error) {
			return readArchive(ctx, s, i)
		},
		"NAR": func(ctx context.Context, s *httpstore.Store, i *narinfo.Info) ([]byte, error) {
			return readNAR(ctx, s, i)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, e, info, count := resumed(t, 5000, nil, nil)
				got, err := read(t.Context(), s, info)
				require.NoError(t, err)
				require.Equal(t, e.NAR, got)
				require.EqualValues(t, (len(e.NAR)-1)/5000, count.Load())
			})
		})
	}
}

func TestCutArchivesThatCannotBeTakenUpAgain(t *testing.T) {
	again := func(r *http.Request) bool { return r.Header.Get("Range") != "" }
	for name, c := range map[string]struct {
		o     func(*httpstore.Options)
		edit  func(http.ResponseWriter, *http.Request)
		tries int32
		bytes int
	}{
		"never":     {o: func(o *httpstore.Options) { o.Resumes = -1 }, tries: 0, bytes: 1000},
		"too often": {o: func(o *httpstore.Options) { o.Resumes = 3 }, tries: 3, bytes: 4000},
		"no ranges": {edit: func(_ http.ResponseWriter, r *http.Request) { r.Header.Del("Range") }, tries: 1, bytes: 1000},
		"another":   {edit: func(_ http.ResponseWriter, r *http.Request) { r.Header.Set("If-Range", `"x"`) }, tries: 1, bytes: 1000},
		"other range": {edit: func(_ http.ResponseWriter, r *http.Request) {
			if again(r) {
				r.Header.Set("Range", "bytes=999-")
			}
		}, tries: 1, bytes: 1000},
		"absent": {edit: func(w http.ResponseWriter, r *http.Request) {
			if again(r) {
				w.WriteHeader(http.StatusNotFound)
			}
		}, tries: 1, bytes: 1000},
		"failing": {edit: func(w http.ResponseWriter, r *http.Request) {
			if again(r) {
				panic(http.ErrAbortHandler)
			}
		}, tries: 5, bytes: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, e, info, count := resumed(t, 1000, c.o, c.edit)
				got, err := readArchive(t.Context(), s, info)
				require.Error(t, err)
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
				require.NotErrorIs(t, err, store.ErrNotFound)
				require.Equal(t, e.NAR[:c.bytes], got)
				require.Equal(t, c.tries, count.Load())
			})
		})
	}
}

// Without a strong validator nothing says that the rest belongs to the beginning.
func TestWeakValidatorsAreNotEnough(t *testing.T) {
	for name, header := range map[string]http.Header{
		"weak ETag": {"Etag": {`W/"x"`}, "Accept-Ranges": {"bytes"}}, "no ETag": {"Accept-Ranges": {"bytes"}},
		"no ranges": {"Etag": {`"x"`}}, "none": {"Etag": {`"x"`}, "Accept-Ranges": {"none"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := sample().Entries()[0]
				u := newUpstream(t, "none", []storetest.Entry{e}, nil)
				s := bubble(t, u, u.options())
				info := infoOf(t, s, e)
				u.interfere(func(w http.ResponseWriter, _ *http.Request) {
					for name, values := range header {
						w.Header()[name] = values
					}
					w.Header().Set("Content-Length", strconv.Itoa(len(e.NAR)))
					_, _ = (&cutter{w, 100}).Write(e.NAR)
				})
				got, err := readArchive(t.Context(), s, info)
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
				require.Equal(t, e.NAR[:100], got)
				require.Equal(t, 1, u.count("/nar/"))
			})
		})
	}
}
