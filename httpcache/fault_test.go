package httpcache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

var errDisk = errors.New("disk /dev/secret on fire")

func TestErrorsBecomeStatuses(t *testing.T) {
	w := newWorld()
	for _, tt := range []struct {
		name     string
		err      error
		status   int
		sentence string
		level    string
	}{
		{"absent", fmt.Errorf("x: %w", store.ErrNotFound), 404, "not found\n", "DEBUG"},
		{"corrupt", fmt.Errorf("x: %w", store.ErrCorrupt), 404, "not found\n", "ERROR"},
		{"unable", store.ErrUnsupported, 404, "not found\n", "DEBUG"},
		{"broken", errDisk, 500, "internal error\n", "ERROR"},
		{"somebody's deadline", context.DeadlineExceeded, 500, "internal error\n", "ERROR"},
	} {
		for kind, url := range w.urls() {
			if kind != "narinfo" && kind != "NAR" && kind != "listing" && kind != "file" {
				continue
			}
			for _, where := range []string{"Info", "Open", "first read"} {
				if kind == "narinfo" && where != "Info" {
					continue
				}
				var log bytes.Buffer
				h := newHandler(t, failing(w, where, tt.err), &httpcache.Options{Logger: debugLog(&log)})
				r := get(h, url)
				name := fmt.Sprintf("%s: %s in %s", kind, tt.name, where)
				require.Equal(t, tt.status, r.StatusCode, name)
				require.Equal(t, tt.sentence, body(t, r), name)
				require.Equal(t, "no-store", r.Header.Get("Cache-Control"), name)
				require.Empty(t, r.Header.Get("ETag"), name)
				require.Equal(t, 1, bytes.Count(log.Bytes(), []byte("\n")), "%s: %s", name, &log)
				require.Contains(t, log.String(), "level="+tt.level, name)
			}
		}
	}
}

func debugLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type openFails struct {
	store.Store
	err error
}

func (s openFails) Open(context.Context, *narinfo.Info) (io.ReadCloser, error) { return nil, s.err }

func failing(w *world, where string, err error) store.Store {
	switch where {
	case "Info":
		return &storetest.Faults{Store: w, InfoErr: func(narinfo.HashPart) error { return err }}
	case "Open":
		return openFails{w, err}
	default:
		return &storetest.Faults{Store: w, Read: storetest.FailAt(0, err)}
	}
}

func TestABodyThatFailsInTheMiddleIsAborted(t *testing.T) {
	w := newWorld()
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for _, tt := range []struct {
			name string
			at   int64
			err  error
		}{
			{"fault", 50_000, errDisk},
			{"early end", 50_000, io.EOF},
			{"proof fails at the very end", w.lib.NarSize - 1, store.ErrCorrupt},
		} {
			name := protocol + ": " + tt.name
			var log bytes.Buffer
			done := make(chan httpcache.Done, 1)
			s := &storetest.Faults{Store: w, Read: storetest.FailAt(tt.at, tt.err)}
			h := newHandler(t, s, &httpcache.Options{Logger: debugLog(&log), Trace: &httpcache.Trace{
				Done: func(_ context.Context, d httpcache.Done) { done <- d }}})
			server := httptest.NewUnstartedServer(h)
			server.EnableHTTP2 = protocol == "HTTP/2.0"
			server.StartTLS()

			r, err := server.Client().Get(server.URL + narURL(w.lib))
			require.NoError(t, err, name)
			require.Equal(t, protocol, r.Proto)
			require.Equal(t, http.StatusOK, r.StatusCode, name)
			got, err := io.ReadAll(r.Body)
			require.Error(t, err, name)
			require.Less(t, len(got), int(w.lib.NarSize), name)
			d := <-done
			require.True(t, d.Aborted, name)
			require.Equal(t, httpcache.KindNAR, d.Kind, name)
			require.Equal(t, http.StatusOK, d.Status, name)
			server.Close()
			require.Equal(t, 1, bytes.Count(log.Bytes(), []byte("answer aborted")), name)
			require.Contains(t, log.String(), "level=ERROR", name)
		}
	}
}

func narURL(i *narinfo.Info) string {
	return "/nar/" + string(i.StorePath.HashPart()) + "-" + i.NarHash.Base32() + ".nar"
}

func TestALogThatFailsInTheMiddleIsAborted(t *testing.T) {
	w := newWorld()
	server := httptest.NewServer(newHandler(t, failingLog{w}, nil))
	defer server.Close()
	r, err := http.Get(server.URL + "/log/" + drvBase)
	require.NoError(t, err)
	_, err = io.ReadAll(r.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "a chunked answer must not seem to be whole")
}

// A decoder that runs out of input says io.ErrUnexpectedEOF, which must not pass for the end of a short log.
func TestAShortLogThatIsCutIsNoLog(t *testing.T) {
	w := newWorld()
	r := get(newHandler(t, cutLog{w}, nil), "/log/"+drvBase)
	require.Equal(t, http.StatusInternalServerError, r.StatusCode)
}

type cutLog struct{ *world }

func (cutLog) OpenLog(context.Context, narinfo.StorePath) (io.ReadCloser, error) {
	r := io.MultiReader(strings.NewReader("a line\n"), errReader{io.ErrUnexpectedEOF})
	return io.NopCloser(r), nil
}

type failingLog struct{ *world }

func (failingLog) OpenLog(context.Context, narinfo.StorePath) (io.ReadCloser, error) {
	r := io.MultiReader(bytes.NewReader(make([]byte, 100_000)), errReader{errDisk})
	return io.NopCloser(r), nil
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestAShortBodyIsFoundOutBeforeTheStatusLine(t *testing.T) {
	w := newWorld()
	h := newHandler(t, &storetest.Faults{Store: w, Read: storetest.CutAt(100)}, nil)
	r := get(h, narURL(w.other))
	require.Equal(t, http.StatusNotFound, r.StatusCode)
}

func TestAClientThatLeavesIsNoFaultOfOurs(t *testing.T) {
	w := newWorld()
	var log bytes.Buffer
	done := make(chan httpcache.Done, 1)
	s := &storetest.Faults{Store: w, Read: storetest.BlockAt(50_000)}
	h := newHandler(t, s, &httpcache.Options{Logger: debugLog(&log), Trace: &httpcache.Trace{
		Done: func(_ context.Context, d httpcache.Done) { done <- d }}})
	server := httptest.NewServer(h)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+narURL(w.lib), nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	cancel()
	require.NoError(t, resp.Body.Close())
	require.True(t, (<-done).Aborted)
	server.Close()
	require.Contains(t, log.String(), "level=DEBUG")
	require.NotContains(t, log.String(), "level=ERROR")
}

func TestARequestThatEndsBeforeItsAnswerIsAborted(t *testing.T) {
	w := newWorld()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h := newHandler(t, &storetest.Faults{Store: w, InfoErr: func(narinfo.HashPart) error { return ctx.Err() }}, nil)
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, narURL(w.lib), nil)
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { h.ServeHTTP(httptest.NewRecorder(), r) })
}

func TestTraceTellsWhatWasAsked(t *testing.T) {
	w := newWorld()
	var last httpcache.Done
	h := newHandler(t, w, &httpcache.Options{Trace: &httpcache.Trace{
		Done: func(_ context.Context, d httpcache.Done) { last = d }}})
	for name, kind := range map[string]httpcache.Kind{
		"cache info": httpcache.KindCacheInfo, "narinfo": httpcache.KindNarinfo, "NAR": httpcache.KindNAR,
		"listing": httpcache.KindListing, "log": httpcache.KindLog, "realisation": httpcache.KindRealisation,
		"build trace": httpcache.KindRealisation, "debug info": httpcache.KindDebugInfo, "file": httpcache.KindServe,
		"landing page": httpcache.KindLanding, "health": httpcache.KindHealth, "nothing": httpcache.KindOther,
		"absent narinfo": httpcache.KindNarinfo,
	} {
		r := get(h, w.urls()[name])
		require.Equal(t, kind, last.Kind, name)
		require.Equal(t, r.StatusCode, last.Status, name)
		require.Equal(t, int64(len(body(t, r))), last.Bytes, name)
		require.Equal(t, "GET", last.Method, name)
		require.False(t, last.Aborted, name)
	}
	request(h, "BREW", "/")
	require.Equal(t, "other", last.Method)
}

func TestKindsHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range httpcache.Kinds() {
		require.False(t, seen[k.String()], k.String())
		seen[k.String()] = true
	}
	require.Len(t, seen, 12)
	require.Equal(t, "other", httpcache.Kind(200).String())
}
