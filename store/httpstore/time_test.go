package httpstore_test

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/archivetest"
	"github.com/voidnxlab/nixtrap/internal/memnet"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/httpstore"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// bubble serves u within a synctest bubble, and returns a store over it.
func bubble(t *testing.T, u *upstream, o *httpstore.Options) *httpstore.Store {
	t.Helper()
	l := memnet.Listen()
	server := &http.Server{Handler: u}
	go server.Serve(l)
	transport := &http.Transport{DialContext: l.DialContext}
	o.Transport = transport
	s, err := httpstore.New("http://cache.example.org", o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		transport.CloseIdleConnections()
		require.NoError(t, server.Close())
		l.Close()
		synctest.Wait()
	})
	return s
}

// fails answers everything with a status.
func fails(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

func lookUp(ctx context.Context, s store.Store, e storetest.Entry) error {
	_, err := s.Info(ctx, e.Info.StorePath.HashPart())
	return err
}

// A cache that takes connections and never says a word costs the budget, a few times.
func TestBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := memnet.Listen()
		conns := make(chan net.Conn, 100)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				conns <- c
			}
		}()
		transport := &http.Transport{DialContext: l.DialContext}
		var opened atomic.Int32
		s, err := httpstore.New("http://x", &httpstore.Options{Transport: transport, FailuresToOpen: 3, Trace: &httpstore.Trace{
			Opened: func(open bool) {
				if open {
					opened.Add(1)
				}
			},
		}})
		require.NoError(t, err)
		e := sample().Entries()[0]
		for range 3 {
			start := time.Now()
			err := lookUp(t.Context(), s, e)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, store.ErrNotFound)
			require.Equal(t, 2*time.Second, time.Since(start))
		}
		require.EqualValues(t, 1, opened.Load())
		start := time.Now()
		for range 100 {
			require.ErrorIs(t, lookUp(t.Context(), s, e), httpstore.ErrUnavailable)
		}
		require.Zero(t, time.Since(start), "nobody waits for a cache that is given up")
		require.Len(t, conns, 3)

		// One request is tried after the back-off, and the next one later.
		time.Sleep(time.Second)
		require.ErrorIs(t, lookUp(t.Context(), s, e), context.DeadlineExceeded)
		require.ErrorIs(t, lookUp(t.Context(), s, e), httpstore.ErrUnavailable)
		require.Len(t, conns, 4)

		// While it is tried others do not wait.
		time.Sleep(2 * time.Second)
		done := make(chan error)
		go func() { done <- lookUp(t.Context(), s, e) }()
		synctest.Wait()
		require.ErrorIs(t, lookUp(t.Context(), s, sample().Entries()[1]), httpstore.ErrUnavailable)
		require.ErrorIs(t, <-done, context.DeadlineExceeded)
		require.NoError(t, s.Close())
		l.Close()
		close(conns)
		for c := range conns {
			c.Close()
		}
		synctest.Wait()
	})
}

func TestBreakerClosesAgain(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{"present": nil, "absent": fails(http.StatusNotFound)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				entries := sample().Entries()
				u := newUpstream(t, "none", entries, nil)
				s := bubble(t, u, u.options())
				u.interfere(fails(http.StatusInternalServerError))
				for range 5 {
					require.ErrorContains(t, lookUp(t.Context(), s, entries[0]), "status 500")
				}
				require.ErrorIs(t, lookUp(t.Context(), s, entries[0]), httpstore.ErrUnavailable)
				u.interfere(answer)
				time.Sleep(time.Second)
				for _, e := range entries {
					err := lookUp(t.Context(), s, e)
					require.NotErrorIs(t, err, httpstore.ErrUnavailable)
					require.Equal(t, answer == nil, err == nil)
				}
			})
		})
	}
}

// A success between failures makes the count begin anew.
func TestFailuresMustBeInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entries := sample().Entries()
		u := newUpstream(t, "none", entries, nil)
		o := u.options()
		o.PositiveTTL, o.StaleIfError = -1, -1
		s := bubble(t, u, o)
		for range 5 {
			u.interfere(fails(http.StatusBadGateway))
			for range 4 {
				require.ErrorContains(t, lookUp(t.Context(), s, entries[0]), "status 502")
			}
			u.interfere(nil)
			require.NoError(t, lookUp(t.Context(), s, entries[0]))
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entries := sample().Entries()
		u := newUpstream(t, "none", entries, nil)
		s := bubble(t, u, u.options())
		u.interfere(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusTooManyRequests)
		})
		require.ErrorContains(t, lookUp(t.Context(), s, entries[0]), "status 429")
		u.interfere(nil)
		time.Sleep(29 * time.Second)
		require.ErrorIs(t, lookUp(t.Context(), s, entries[0]), httpstore.ErrUnavailable)
		time.Sleep(time.Second)
		require.NoError(t, lookUp(t.Context(), s, entries[0]))
	})
}

func TestLookUpsOfOnePathShareARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entries := sample().Entries()
		u := newUpstream(t, "none", entries, nil)
		s := bubble(t, u, u.options())
		let := make(chan struct{})
		u.interfere(func(http.ResponseWriter, *http.Request) { <-let })
		impatient, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 11)
		go func() { errs <- lookUp(impatient, s, entries[0]) }() // whose request it is
		synctest.Wait()
		for range 10 {
			go func() { errs <- lookUp(t.Context(), s, entries[0]) }()
		}
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-errs, context.Canceled)
		close(let)
		for range 10 {
			require.NoError(t, <-errs)
		}
		require.Equal(t, 1, u.count(".narinfo"))
	})
}

func TestAbsenceIsKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := sample().Entries()[0]
		u := newUpstream(t, "none", nil, nil)
		o := u.options()
		o.NegativeTTL = 10 * time.Second
		s := bubble(t, u, o)
		require.ErrorIs(t, lookUp(t.Context(), s, e), store.ErrNotFound)
		info := e.Info.Clone()
		info.URL = "nar/x.nar"
		info.Sign(u.key)
		u.putInfo(t, info)
		time.Sleep(10*time.Second - 1)
		require.ErrorIs(t, lookUp(t.Context(), s, e), store.ErrNotFound)
		require.Equal(t, 1, u.count(".narinfo"))
		time.Sleep(1)
		require.NoError(t, lookUp(t.Context(), s, e))
	})
}

func TestMetadataAreAskedForAgainUnderACondition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := sample().Entries()[0]
		u := newUpstream(t, "none", []storetest.Entry{e}, nil)
		results := make(chan httpstore.Result, 100)
		o := u.options()
		o.PositiveTTL = time.Minute
		o.Trace = &httpstore.Trace{Lookup: func(r httpstore.Result, _ time.Duration) { results <- r }}
		s := bubble(t, u, o)
		var condition atomic.Value
		u.interfere(func(_ http.ResponseWriter, r *http.Request) { condition.Store(r.Header.Get("If-None-Match")) })
		look := func() error {
			err := lookUp(t.Context(), s, e)
			synctest.Wait() // the trace is told last
			return err
		}
		require.NoError(t, look())
		require.Empty(t, condition.Load())
		time.Sleep(time.Minute - 1)
		require.NoError(t, look())
		require.Equal(t, 1, u.count(".narinfo"))
		time.Sleep(1)
		require.NoError(t, look())
		require.NotEmpty(t, condition.Load())
		require.Equal(t, 2, u.count(".narinfo"))
		require.NoError(t, look(), "unchanged is as good as new")
		require.Equal(t, 2, u.count(".narinfo"))

		changed := infoOf(t, s, e)
		synctest.Wait()
		changed.Deriver = "/nix/store/00000000000000000000000000000000-x.drv"
		u.putInfo(t, changed)
		time.Sleep(time.Minute)
		require.Equal(t, changed.Deriver, infoOf(t, s, e).Deriver)
		synctest.Wait()

		// Gone is gone, however long it was there.
		u.remove("/" + string(e.Info.StorePath.HashPart()) + ".narinfo")
		time.Sleep(time.Minute)
		require.ErrorIs(t, look(), store.ErrNotFound)
		var got []httpstore.Result
		synctest.Wait()
		close(results)
		for r := range results {
			got = append(got, r)
		}
		require.Equal(t, []httpstore.Result{"found", "cached", "found", "cached", "cached", "found", "absent"}, got)
	})
}

func TestStaleIfError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entries := sample().Entries()
		u := newUpstream(t, "none", entries, nil)
		o := u.options()
		o.PositiveTTL, o.StaleIfError = time.Minute, time.Hour
		s := bubble(t, u, o)
		require.NoError(t, lookUp(t.Context(), s, entries[0]))
		u.interfere(fails(http.StatusInternalServerError))
		for range 20 { // past the point at which the cache is given up
			time.Sleep(time.Minute + 1)
			require.NoError(t, lookUp(t.Context(), s, entries[0]))
		}
		require.Error(t, lookUp(t.Context(), s, entries[1]), "nothing is known of others")
		time.Sleep(time.Hour)
		err := lookUp(t.Context(), s, entries[0])
		require.Error(t, err)
		require.NotErrorIs(t, err, store.ErrNotFound)
	})
}

// A narinfo that trickles in is over the budget as well as one that does not come.
func TestSlowNarinfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := sample().Entries()[0]
		u := newUpstream(t, "none", []storetest.Entry{e}, nil)
		o := u.options()
		o.FailuresToOpen, o.LookupBudget = 2, 3*time.Second
		s := bubble(t, u, o)
		u.interfere(func(w http.ResponseWriter, r *http.Request) {
			for range 100 {
				w.Write([]byte("S"))
				w.(*touched).ResponseWriter.(http.Flusher).Flush()
				select {
				case <-time.After(time.Second):
				case <-r.Context().Done():
					return
				}
			}
		})
		for range 2 {
			start := time.Now()
			require.ErrorIs(t, lookUp(t.Context(), s, e), context.DeadlineExceeded)
			require.Equal(t, 3*time.Second, time.Since(start))
		}
		require.ErrorIs(t, lookUp(t.Context(), s, e), httpstore.ErrUnavailable)
	})
}

// An archive that does not come on ends in an error; the caller's own end is the caller's.
func TestStalledArchive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := sample().Entries()[0]
		u := newUpstream(t, "none", []storetest.Entry{e}, nil)
		o := u.options()
		o.StallTimeout = 10 * time.Second
		s := bubble(t, u, o)
		info := infoOf(t, s, e)
		u.interfere(func(w http.ResponseWriter, r *http.Request) {
			w.Write(e.NAR[:50])
			w.(*touched).ResponseWriter.(http.Flusher).Flush()
			<-r.Context().Done()
		})
		start := time.Now()
		got, err := readArchive(t.Context(), s, info)
		require.ErrorContains(t, err, "no byte for too long")
		require.NotErrorIs(t, err, context.Canceled)
		require.Equal(t, e.NAR[:50], got)
		require.Equal(t, 10*time.Second, time.Since(start))

		u.interfere(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		start = time.Now()
		_, err = readNAR(t.Context(), s, info)
		require.ErrorContains(t, err, "no byte for too long")
		require.Equal(t, 10*time.Second, time.Since(start))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = readNAR(ctx, s, info)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, lookUp(t.Context(), s, e))
	})
}

// A path that was rebuilt under the same URL is damaged to who remembers its old metadata, and is right the next time.
func TestRebuiltPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := sample().Entries()[0]
		edit := func(i *narinfo.Info, _ *[]byte) { i.URL, i.FileHash, i.FileSize = "nar/x.nar", narinfo.Hash{}, 0 }
		u := newUpstream(t, "zstd", []storetest.Entry{e}, edit)
		s := bubble(t, u, u.options())
		old := infoOf(t, s, e)
		time.Sleep(time.Minute)

		m := &storetest.Memory{}
		rebuilt := m.AddInfo(&narinfo.Info{StorePath: e.Info.StorePath}, storetest.Archive(storetest.Files{"": "rebuilt"}))
		file := archivetest.Compress(t, "zstd", m.Entries()[0].NAR)
		rebuilt.Compression = "zstd"
		edit(rebuilt, nil)
		rebuilt.Sign(u.key)
		u.putInfo(t, rebuilt)
		u.put("/nar/x.nar", file)

		_, err := readNAR(t.Context(), s, old)
		require.ErrorIs(t, err, store.ErrCorrupt)
		now := infoOf(t, s, e)
		require.Equal(t, rebuilt.NarHash, now.NarHash)
		require.NoError(t, store.Verify(t.Context(), s, now))
		_, err = readNAR(t.Context(), s, old)
		require.ErrorIs(t, err, store.ErrNotFound)
	})
}

func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entries := sample().Entries()
		u := newUpstream(t, "none", entries, nil)
		o := u.options()
		o.CacheBytes = 4 << 10 // two or three
		s := bubble(t, u, o)
		for range 3 {
			for _, e := range entries {
				require.NoError(t, lookUp(t.Context(), s, e))
			}
		}
		require.Equal(t, 3*len(entries), u.count(".narinfo"), "what was used last is kept, so in turn nothing is")
		require.NoError(t, lookUp(t.Context(), s, entries[len(entries)-1]))
		require.Equal(t, 3*len(entries), u.count(".narinfo"))
	})
}

func TestClosedStore(t *testing.T) {
	u := newUpstream(t, "none", nil, nil)
	s, err := httpstore.New(u.serve(t), nil)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	_, err = s.Info(t.Context(), narinfo.HashPart("00000000000000000000000000000000"))
	require.ErrorContains(t, err, "closed")
}
