package plainhttp_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/memnet"
	"github.com/voidnxlab/nixtrap/internal/plainhttp"
)

// newHandler has an answer of every kind. What it is asked is a part of some of them.
func newHandler(t *testing.T) http.Handler {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("0123456789abcdef"), 1<<16), 0o600))
	mux := make(routes)
	sized := func(w http.ResponseWriter, body []byte) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		_, _ = w.Write(body)
	}
	mux["/echo"] = func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		fmt.Fprintln(&b, r.Method, r.URL, r.RequestURI, r.Host, r.Proto, r.ContentLength, r.Form, r.TransferEncoding)
		_ = r.Header.Write(&b)
		body, err := io.ReadAll(r.Body)
		fmt.Fprintln(&b, string(body), err, r.Context().Value(http.LocalAddrContextKey) != nil)
		sized(w, b.Bytes())
	}
	mux["/big"] = func(w http.ResponseWriter, _ *http.Request) { sized(w, bytes.Repeat([]byte("x"), 1<<20)) }
	mux["/pieces"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "100000")
		for range 1000 {
			_, _ = w.Write(bytes.Repeat([]byte("p"), 100))
		}
	}
	mux["/chunked"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "piece %d\n", i)
			_ = http.NewResponseController(w).Flush()
		}
	}
	mux["/file"] = func(w http.ResponseWriter, _ *http.Request) {
		f, err := os.Open(file)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "1048570")
		_, _ = f.Seek(3, io.SeekStart)
		_, _ = w.(io.ReaderFrom).ReadFrom(&io.LimitedReader{R: f, N: 1048570})
	}
	mux["/nothing"] = func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Line", "a\r\nb: c") }
	mux["/304"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Etag", `"x"`)
		w.WriteHeader(http.StatusNotModified)
	}
	mux["/short"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("too little"))
	}
	mux["/unwritten"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "100")
	}
	mux["/close"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.Header().Set("Date", "then")
		sized(w, []byte("the end"))
	}
	mux["/abort"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("too little"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	mux["/abort/chunked"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write([]byte("too little"))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	return mux
}

// routes are handlers by path, without the redirects of a http.ServeMux.
type routes map[string]http.HandlerFunc

func (m routes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := m[r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusNotFound)
}

const end = "GET /echo HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n"

// conversations are what clients send, in pieces that are sent one after the other.
var conversations = map[string][]string{
	"one":                         {end},
	"two":                         {"GET /echo?a=b%20c HTTP/1.1\r\nHost: h:1\r\nAccept: a\r\naccept: b\r\nX-y: \t z \r\n\r\n", end},
	"pipelined":                   {"GET /echo HTTP/1.1\r\nHost: h\r\n\r\nHEAD /echo HTTP/1.1\r\nHost: h\r\n\r\n" + end},
	"pipelined, with a body":      {"GET /big HTTP/1.1\r\nHost: h\r\n\r\nPOST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi" + end},
	"in pieces":                   {"GET /ec", "ho HTTP/1.1\r\nHo", "st: h\r\n\r\n", end},
	"big":                         {"GET /big HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"in many writes":              {"GET /pieces HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"HEAD of big":                 {"HEAD /big HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"chunked":                     {"GET /chunked HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"HEAD of chunked":             {"HEAD /chunked HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"a file":                      {"GET /file HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"HEAD of a file":              {"HEAD /file HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"a file, after handing over":  {"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx", "GET /file HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"nothing":                     {"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"not modified":                {"GET /304 HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"ends early":                  {"GET /short HTTP/1.1\r\nHost: h\r\n\r\n"},
	"writes nothing":              {"GET /unwritten HTTP/1.1\r\nHost: h\r\n\r\n"},
	"HEAD of nothing":             {"HEAD /unwritten HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"the handler closes":          {"GET /close HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"aborts":                      {"GET /abort HTTP/1.1\r\nHost: h\r\n\r\n"},
	"aborts, chunked":             {"GET /abort/chunked HTTP/1.1\r\nHost: h\r\n\r\n"},
	"HTTP/1.0":                    {"GET /echo HTTP/1.0\r\n\r\n"},
	"HTTP/1.0, keep-alive":        {"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", end},
	"HTTP/2 preface":              {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
	"no host":                     {"GET /echo HTTP/1.1\r\n\r\n"},
	"two hosts":                   {"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"},
	"bad host":                    {"GET /echo HTTP/1.1\r\nHost: a b\r\n\r\n"},
	"absolute target":             {"GET http://other/echo HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"no target":                   {"GET  HTTP/1.1\r\nHost: h\r\n\r\n"},
	"target with a space":         {"GET /echo x HTTP/1.1\r\nHost: h\r\n\r\n"},
	"target with bad escape":      {"GET /echo%zz HTTP/1.1\r\nHost: h\r\n\r\n"},
	"target that is not ASCII":    {"GET /echo\xff HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"target with two slashes":     {"GET //echo HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"target with a dot segment":   {"GET /a/../echo HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"star":                        {"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"POST":                        {"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", end},
	"GET with a body":             {"GET /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", end},
	"GET with a chunked body":     {"GET /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", end},
	"smuggling":                   {"GET /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", end},
	"lengths that differ":         {"GET /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc"},
	"expects":                     {"GET /echo HTTP/1.1\r\nHost: h\r\nExpect: nonsense\r\n\r\n"},
	"upgrade":                     {"GET /echo HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", end},
	"folded header":               {"GET /echo HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n", end},
	"space before the colon":      {"GET /echo HTTP/1.1\r\nHost: h\r\nA : b\r\n\r\n"},
	"no colon":                    {"GET /echo HTTP/1.1\r\nHost: h\r\nA\r\n\r\n"},
	"control character in header": {"GET /echo HTTP/1.1\r\nHost: h\r\nA: b\x01\r\n\r\n"},
	"NUL in header":               {"GET /echo HTTP/1.1\r\nHost: h\r\nA: b\x00\r\n\r\n"},
	"lone newlines":               {"GET /echo HTTP/1.1\nHost: h\n\n", end},
	"lone newline in header":      {"GET /echo HTTP/1.1\r\nHost: h\r\nA: b\nC: d\r\n\r\n", end},
	"lone return in header":       {"GET /echo HTTP/1.1\r\nHost: h\r\nA: b\rC: d\r\n\r\n"},
	"empty lines before":          {"\r\nGET /echo HTTP/1.1\r\nHost: h\r\n\r\n", end},
	"pragma":                      {"GET /echo HTTP/1.1\r\nHost: h\r\nPragma: no-cache\r\n\r\n", end},
	"long header":                 {"GET /echo HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", 5000) + "\r\n\r\n", end},
	"very long header":            {"GET /echo HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("a", 1<<17) + "\r\n\r\n"},
	"many headers":                {"GET /echo HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("A: a\r\n", 100) + "\r\n", end},
	"nonsense":                    {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"},
}

// TestAnswersAreThoseOfNetHTTP holds whole conversations with both servers over TCP.
func TestAnswersAreThoseOfNetHTTP(t *testing.T) {
	handler := newHandler(t)
	discard := log.New(io.Discard, "", 0)
	plain := &plainhttp.Server{HTTP: &http.Server{Handler: handler, ErrorLog: discard, MaxHeaderBytes: 64 << 10}}
	std := &http.Server{Handler: handler, ErrorLog: discard, MaxHeaderBytes: 64 << 10}
	plainAddr, stdAddr := serve(t, plain.Serve), serve(t, std.Serve)
	defer plain.Close()
	defer std.Close()
	for name, pieces := range conversations {
		t.Run(name, func(t *testing.T) {
			want := converse(t, stdAddr, pieces)
			require.NotEmpty(t, want)
			require.Equal(t, want, converse(t, plainAddr, pieces))
		})
	}
}

func serve(t *testing.T, run func(net.Listener) error) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- run(l) }()
	t.Cleanup(func() { require.ErrorIs(t, <-done, http.ErrServerClosed) })
	return l.Addr().String()
}

// converse returns what is answered, a line for each answer, until the server closes the connection.
func converse(t *testing.T, addr string, pieces []string) (answers []string) {
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	go func() {
		for _, piece := range pieces {
			_, _ = io.WriteString(c, piece)
			time.Sleep(5 * time.Millisecond) // so that the pieces arrive one by one, mostly
		}
	}()
	in := bufio.NewReader(c)
	all := strings.Join(pieces, "")
	for {
		method := http.MethodGet
		if begin := strings.Index(all, "HEAD "); begin >= 0 && strings.Count(all[:begin], "GET ") == len(answers) {
			method = http.MethodHead
		}
		r, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			return answers
		}
		body, err := io.ReadAll(r.Body)
		r.Header.Del("Date")
		answers = append(answers, fmt.Sprint(r.Status, r.ContentLength, r.TransferEncoding, r.Close, r.Header, len(body),
			" ", string(body[:min(len(body), 1000)]), err))
	}
}

// staller is what every writer is.
type staller interface{ SetWriteStall(d time.Duration) }

// sendsFiles is what the writer is on Linux over TCP.
type sendsFiles interface {
	SendFile(fd int, offset, n int64) (int64, error)
}

func TestSendFileSendsAPartOfAFile(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 1<<18)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, content, 0o600))
	var sendErr error
	handler := func(w http.ResponseWriter, r *http.Request) {
		f, err := os.Open(file)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		length := int64(len(content))
		if r.URL.Path == "/short" {
			length += 10
		}
		w.Header().Set("Content-Length", fmt.Sprint(length))
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(content[:5])
		_, sendErr = w.(sendsFiles).SendFile(int(f.Fd()), 5, length-6)
		if sendErr != nil {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(content[len(content)-1:])
	}
	s := &plainhttp.Server{HTTP: &http.Server{Handler: http.HandlerFunc(handler)}}
	addr := serve(t, s.Serve)
	defer s.Close()
	r, err := http.Get("http://" + addr + "/")
	require.NoError(t, err)
	got, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
	require.NoError(t, sendErr)

	r, err = http.Get("http://" + addr + "/short")
	require.NoError(t, err)
	got, err = io.ReadAll(r.Body)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.True(t, bytes.Equal(content, got))
	require.NoError(t, s.Shutdown(t.Context()))
	require.ErrorIs(t, sendErr, io.ErrUnexpectedEOF)
}

func TestDateIsCurrent(t *testing.T) {
	s := &plainhttp.Server{HTTP: &http.Server{Handler: newHandler(t)}}
	addr := serve(t, s.Serve)
	defer s.Close()
	r, err := http.Get("http://" + addr + "/nothing")
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	date, err := http.ParseTime(r.Header.Get("Date"))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), date, 5*time.Second)
}

// world is a server in a bubble with fake time.
type world struct {
	server *plainhttp.Server
	l      *memnet.Listener
	done   chan error
	logged safeBuffer
}

func newWorld(handler http.HandlerFunc) *world {
	w := &world{l: memnet.Listen(), done: make(chan error, 1)}
	w.server = &plainhttp.Server{HTTP: &http.Server{Handler: handler, ErrorLog: log.New(&w.logged, "", 0),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}}
	go func() { w.done <- w.server.Serve(w.l) }()
	return w
}

func (w *world) dial(t *testing.T) net.Conn {
	c, err := w.l.DialContext(t.Context(), "", "")
	require.NoError(t, err)
	return c
}

func (w *world) close(t *testing.T) {
	require.NoError(t, w.server.Close())
	require.ErrorIs(t, <-w.done, http.ErrServerClosed)
}

type safeBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

const get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n"

func ok(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "2")
	_, _ = io.WriteString(w, "ok")
}

func requireAnswer(t *testing.T, c net.Conn) {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	require.NoError(t, err)
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Equal(t, "ok", string(body))
}

func TestConnectionsThatSayNothingAreClosed(t *testing.T) {
	for name, row := range map[string]struct {
		send []string
		want time.Duration
	}{
		"from the start":      {nil, 10 * time.Second},
		"after an answer":     {[]string{get}, time.Minute},
		"after two":           {[]string{get, get}, time.Minute},
		"in a request":        {[]string{"GET / HT"}, 10 * time.Second},
		"in a second request": {[]string{get, "GET / HT"}, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(ok)
				c := w.dial(t)
				for _, text := range row.send {
					_, err := io.WriteString(c, text)
					require.NoError(t, err)
					if strings.HasSuffix(text, "\r\n\r\n") {
						requireAnswer(t, c)
					}
				}
				start := time.Now()
				_, err := io.Copy(io.Discard, c)
				require.NoError(t, err)
				require.InDelta(t, row.want, time.Since(start), float64(row.want)/7)
				w.close(t)
			})
		})
	}
}

func TestShutdownWaitsForAnswersAndClosesIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		w := newWorld(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				<-release
			}
			ok(w, r)
		})
		idle, slow := w.dial(t), w.dial(t)
		_, err := io.WriteString(idle, get)
		require.NoError(t, err)
		requireAnswer(t, idle)
		_, err = io.WriteString(slow, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
		require.NoError(t, err)
		synctest.Wait()

		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, w.server.Shutdown(short), context.DeadlineExceeded)
		require.ErrorIs(t, <-w.done, http.ErrServerClosed)
		n, err := idle.Read(make([]byte, 1))
		require.Zero(t, n)
		require.ErrorIs(t, err, io.EOF)

		stopped := make(chan error, 1)
		go func() { stopped <- w.server.Shutdown(t.Context()) }()
		synctest.Wait()
		close(release)
		r, err := http.ReadResponse(bufio.NewReader(slow), nil)
		require.NoError(t, err)
		require.True(t, r.Close, "the answer says that the connection ends")
		_, err = io.ReadAll(r.Body)
		require.NoError(t, err)
		require.NoError(t, <-stopped)
	})
}

func TestAClientThatLeavesEndsTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		w := newWorld(func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			ended <- r.Context().Err()
			panic(http.ErrAbortHandler)
		})
		c := w.dial(t)
		_, err := io.WriteString(c, get)
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-ended, context.Canceled)
		w.close(t)
	})
}

func TestAWatchedConnectionLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var contexts []context.Context
		w := newWorld(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
				panic("nobody left")
			case <-time.After(time.Second):
			}
			contexts = append(contexts, r.Context())
			ok(w, r)
		})
		c := w.dial(t)
		go func() {
			for range 5 {
				_, _ = io.WriteString(c, get)
			}
		}()
		in := bufio.NewReader(c)
		for range 5 {
			r, err := http.ReadResponse(in, nil)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, r.Body)
			require.NoError(t, err)
		}
		w.close(t)
		for _, ctx := range contexts {
			require.ErrorIs(t, ctx.Err(), context.Canceled, "a context ends with its answer")
		}
	})
}

func TestAContextThatWasAskedForHoldsNothingUp(t *testing.T) {
	s := &plainhttp.Server{HTTP: &http.Server{IdleTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = r.Context().Done()
			ok(w, r)
		})}}
	addr := serve(t, s.Serve)
	var clients sync.WaitGroup
	for range 50 {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer c.Close()
		clients.Go(func() {
			_, _ = io.WriteString(c, get)
			_, _ = io.ReadFull(c, make([]byte, 20))
		})
	}
	clients.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, s.Shutdown(ctx))
}

func TestAnEmptyLineBetweenRequestsIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(ok)
		c := w.dial(t)
		for range 3 {
			_, err := io.WriteString(c, get)
			require.NoError(t, err)
			requireAnswer(t, c)
			_, err = io.WriteString(c, "\r\n")
			require.NoError(t, err)
		}
		w.close(t)
	})
}

func TestADeadlineHoldsForItsAnswer(t *testing.T) {
	for name, first := range map[string]func(w http.ResponseWriter){
		"by stall": func(w http.ResponseWriter) { w.(staller).SetWriteStall(time.Second) },
		"by deadline": func(w http.ResponseWriter) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Second))
		},
	} {
		for then, second := range map[string]func(w http.ResponseWriter){
			"nothing":  func(http.ResponseWriter) {},
			"no stall": func(w http.ResponseWriter) { w.(staller).SetWriteStall(0) },
			"a stall":  func(w http.ResponseWriter) { w.(staller).SetWriteStall(time.Minute) },
		} {
			t.Run(name+", then "+then, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					prepare := first
					w := newWorld(func(w http.ResponseWriter, r *http.Request) {
						prepare(w)
						ok(w, r)
					})
					c := w.dial(t)
					for range 2 {
						_, err := io.WriteString(c, get)
						require.NoError(t, err)
						requireAnswer(t, c)
						time.Sleep(5 * time.Second)
						prepare = second
					}
					w.close(t)
				})
			})
		}
	}
}

func TestSlowReadersAreCutOffAndSteadyOnesAreNot(t *testing.T) {
	const size = 4 << 20
	for name, row := range map[string]struct {
		every time.Duration // for 64 KiB
		whole bool
	}{
		"steady": {10 * time.Second, true},
		"slow":   {20 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Length", fmt.Sprint(size))
					w.(staller).SetWriteStall(time.Minute)
					_, _ = w.Write(make([]byte, size))
				})
				c := w.dial(t)
				_, err := io.WriteString(c, get)
				require.NoError(t, err)
				r, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
				require.NoError(t, err)
				n, buf := 0, make([]byte, 64<<10)
				for err == nil {
					var m int
					m, err = io.ReadFull(r.Body, buf)
					n += m
					time.Sleep(row.every)
				}
				require.Equal(t, row.whole, n == size, "%d bytes, then %v", n, err)
				w.close(t)
			})
		})
	}
}

func TestPanicsAreLoggedAndCutTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(func(http.ResponseWriter, *http.Request) { panic("our fault") })
		c := w.dial(t)
		_, err := io.WriteString(c, get)
		require.NoError(t, err)
		rest, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Empty(t, rest)
		require.Contains(t, w.logged.String(), "our fault")
		require.Contains(t, w.logged.String(), "plainhttp_test.go", "there is a stack")
		w.close(t)
	})
}

func TestWritersKeepTheirContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var results []string
		w := newWorld(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			n, err := w.Write([]byte("hello"))
			results = append(results, fmt.Sprint(n, err))
			n, err = w.Write([]byte("!"))
			results = append(results, fmt.Sprint(n, err))
		})
		c := w.dial(t)
		_, err := io.WriteString(c, get)
		require.NoError(t, err)
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		_, err = io.ReadAll(r.Body)
		require.NoError(t, err)
		w.close(t)
		require.Equal(t, []string{"5 <nil>", "0 http: wrote more than the declared Content-Length"}, slices.Clone(results))
	})
}

// BenchmarkRequest is one small answer over loopback TCP, by each server.
func BenchmarkRequest(b *testing.B) {
	h := &http.Server{Handler: http.HandlerFunc(ok)}
	plain := &plainhttp.Server{HTTP: &http.Server{Handler: http.HandlerFunc(ok)}}
	for name, run := range map[string]func(net.Listener) error{"net/http": h.Serve, "plainhttp": plain.Serve} {
		b.Run(name, func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(b, err)
			go func() { _ = run(l) }()
			defer l.Close()
			c, err := net.Dial("tcp", l.Addr().String())
			require.NoError(b, err)
			defer c.Close()
			buf := make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = io.WriteString(c, get)
				_, err = c.Read(buf)
				require.NoError(b, err)
			}
		})
	}
}
