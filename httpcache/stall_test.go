package httpcache_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/internal/memnet"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// serveMemory runs h on a listener in memory, inside a synctest bubble, and returns a connection to it.
func serveMemory(t *testing.T, h http.Handler) net.Conn {
	l := memnet.Listen()
	server := &http.Server{Handler: h}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	c, err := l.DialContext(t.Context(), "", "")
	require.NoError(t, err)
	return c
}

func TestAClientThatStopsReadingIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		const stall = 30 * time.Second
		done := make(chan httpcache.Done, 1)
		c := serveMemory(t, newHandler(t, w, &httpcache.Options{WriteStall: stall, Trace: &httpcache.Trace{
			Done: func(_ context.Context, d httpcache.Done) { done <- d }}}))
		start := time.Now()
		_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: cache\r\n\r\n", narURL(w.lib))
		require.NoError(t, err)
		d := <-done
		require.True(t, d.Aborted)
		require.Equal(t, stall, time.Since(start))
		_, err = io.Copy(io.Discard, c)
		require.NoError(t, err, "the connection ended")
		require.Equal(t, stall, time.Since(start))
	})
}

func TestASlowClientThatGoesOnReadingGetsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		big := w.Add("big", storetest.Files{"": strings.Repeat("x", 4<<20)})
		const stall = 30 * time.Second
		c := serveMemory(t, newHandler(t, w, &httpcache.Options{WriteStall: stall}))
		_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: cache\r\n\r\n", narURL(big))
		require.NoError(t, err)
		start := time.Now()
		r, err := http.ReadResponse(bufio.NewReaderSize(slowReader{c, 2 * time.Second}, 32<<10), nil)
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, r.Body)
		require.NoError(t, err)
		require.Equal(t, big.NarSize, n)
		require.Greater(t, time.Since(start), 4*stall)
	})
}

type slowReader struct {
	io.Reader
	pause time.Duration
}

func (r slowReader) Read(p []byte) (int, error) {
	time.Sleep(r.pause)
	return r.Reader.Read(p)
}

// The deadline is lifted after each answer: what comes later on the connection, of another handler even, has its own.
func TestADeadlineEndsWithItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		mux := http.NewServeMux()
		mux.Handle("/", newHandler(t, w, &httpcache.Options{WriteStall: time.Second}))
		mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "later") })
		c := serveMemory(t, mux)
		br := bufio.NewReader(c)
		for _, path := range []string{"/healthz", "/log/" + drvBase, narURL(w.other), "/nope", "/elsewhere"} {
			_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: cache\r\n\r\n", path)
			require.NoError(t, err)
			r, err := http.ReadResponse(br, nil)
			require.NoError(t, err, path)
			_, err = io.Copy(io.Discard, r.Body)
			require.NoError(t, err, path)
			time.Sleep(time.Hour)
		}
	})
}

func TestNoLimitOfOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		c := serveMemory(t, newHandler(t, w, &httpcache.Options{WriteStall: -1}))
		_, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: cache\r\n\r\n", narURL(w.lib))
		require.NoError(t, err)
		time.Sleep(24 * time.Hour)
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		n, err := io.Copy(io.Discard, r.Body)
		require.NoError(t, err)
		require.Equal(t, w.lib.NarSize, n)
	})
}

func TestAFileGoesThroughReadFrom(t *testing.T) {
	b := newBucket(t)
	h := newHandler(t, b, nil)
	for name, headers := range map[string][]string{"whole": nil, "range": {"Range", "bytes=5-120000"}} {
		w := &readFromRecorder{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest(http.MethodGet, b.archiveURL(), nil)
		if headers != nil {
			r.Header.Set(headers[0], headers[1])
		}
		h.ServeHTTP(w, r)
		require.Equal(t, body(t, get(h, b.archiveURL(), headers...)), w.Body.String(), name)
		require.Greater(t, w.read, int64(80_000), name)
	}
}

// readFromRecorder counts what comes by ReadFrom.
type readFromRecorder struct {
	*httptest.ResponseRecorder
	read int64
}

func (w *readFromRecorder) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseRecorder, r)
	w.read += n
	return n, err
}

func TestNothingIsLeftBehind(t *testing.T) {
	w := newWorld()
	s := &storetest.Faults{Store: w, Read: storetest.FailAt(50_000, errDisk)}
	server := httptest.NewServer(newHandler(t, s, nil))
	defer server.Close()
	transport := &http.Transport{}
	client := &http.Client{Transport: transport}
	before := runtime.NumGoroutine()
	for range 50 {
		for _, url := range w.urls() {
			r, err := client.Get(server.URL + url)
			require.NoError(t, err)
			_, _ = io.Copy(io.Discard, r.Body)
			require.NoError(t, r.Body.Close())
		}
		r, err := client.Get(server.URL + narURL(w.lib))
		require.NoError(t, err)
		require.NoError(t, r.Body.Close())
	}
	transport.CloseIdleConnections()
	const own = 2 // Eventually's
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+own }, 5*time.Second, 10*time.Millisecond)
}
