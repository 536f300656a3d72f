package upload_test

import (
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/memnet"
	"github.com/voidnxlab/nixtrap/internal/shelf"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/httpstore/upload"
)

// bubble serves h within a synctest bubble, and returns a client of it.
func bubble(t *testing.T, h http.Handler, o *upload.Options) *upload.Client {
	t.Helper()
	l := memnet.Listen()
	server := &http.Server{Handler: h}
	go server.Serve(l)
	transport := &http.Transport{DialContext: l.DialContext}
	o.Transport = transport
	c, err := upload.New("http://cache.example.org", o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		require.NoError(t, server.Close())
		l.Close()
		time.Sleep(time.Second) // for which net/http lets a connection linger
		synctest.Wait()
	})
	return c
}

func TestPausesDoubleAndRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var after string
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if after != "" {
				w.Header().Set("Retry-After", after)
			}
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		var pauses []time.Duration
		o := &upload.Options{Trace: &upload.Trace{Retry: func(_ narinfo.StorePath, _ error, pause time.Duration) {
			pauses = append(pauses, pause)
		}}}
		c, s := bubble(t, h, o), newSources()
		_, err := c.Push(t.Context(), s, s.lone.StorePath)
		require.Error(t, err)
		require.Len(t, pauses, 5)
		for i, least := 0, 500*time.Millisecond; i < len(pauses); i, least = i+1, 2*least {
			require.GreaterOrEqual(t, pauses[i], least)
			require.Less(t, pauses[i], 2*least)
		}
		inAMinute := func() string { return time.Now().Add(time.Minute).UTC().Format(http.TimeFormat) }
		for _, row := range []struct {
			text        string
			least, most time.Duration
		}{
			{"90", 90 * time.Second, 90 * time.Second},
			{"999999999", 5 * time.Minute, 5 * time.Minute},
			{"a date", 58 * time.Second, time.Minute},
			{"soon", 500 * time.Millisecond, time.Second},
			{"-1", 500 * time.Millisecond, time.Second},
		} {
			if after, pauses = row.text, nil; row.most == time.Minute {
				after = inAMinute()
			}
			_, err = c.Push(t.Context(), s, s.lone.StorePath)
			require.Error(t, err)
			require.GreaterOrEqual(t, pauses[0], row.least, row.text)
			require.LessOrEqual(t, pauses[0], row.most, row.text)
		}
	})
}

func TestAServerThatTakesNoByteIsNotWaitedForForEver(t *testing.T) {
	for _, silent := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			quit := make(chan struct{})
			defer close(quit)
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case silent:
					<-quit
				case r.Method == http.MethodPut:
					_, _ = io.CopyN(io.Discard, r.Body, 1000)
					<-quit
				case r.Method == http.MethodHead:
					w.WriteHeader(http.StatusNotFound)
				default:
					w.WriteHeader(http.StatusMethodNotAllowed)
				}
			})
			c, s := bubble(t, h, &upload.Options{StallTimeout: time.Minute, Attempts: 2}), newSources()
			start := time.Now()
			_, err := c.Push(t.Context(), s, s.base.StorePath)
			require.ErrorContains(t, err, "takes no byte and answers nothing for too long")
			require.InDelta(t, 2*time.Minute, time.Since(start), float64(30*time.Second))
		})
	}
}

func TestAServerThatIsSlowIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := &shelf.Server{}
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for r.Method == http.MethodPut {
				n, err := io.CopyN(io.Discard, r.Body, 100_000)
				time.Sleep(40 * time.Second)
				if n == 0 || err != nil {
					w.WriteHeader(http.StatusCreated)
					return
				}
			}
			files.ServeHTTP(w, r)
		})
		c, s := bubble(t, h, &upload.Options{StallTimeout: time.Minute, Attempts: 1}), newSources()
		_, err := c.Push(t.Context(), s, s.base.StorePath)
		require.NoError(t, err)
	})
}
