package s3test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Fault does something else with a request than to send it and hand its answer back.
type Fault func(next http.RoundTripper, r *http.Request) (*http.Response, error)

// Faults is a transport that has faults, as long as its plan says so. It is safe for concurrent use.
type Faults struct {
	mu    sync.Mutex // guards all below
	plan  func(op string, nth int) Fault
	count map[string]int
}

// NewFaults returns a transport without any yet.
func NewFaults() *Faults { return &Faults{count: make(map[string]int)} }

// Set makes a plan, and counts anew. The plan is told what is asked, as S3 names it, and how often it was before; nil is
// no fault.
func (f *Faults) Set(plan func(op string, nth int) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan, f.count = plan, make(map[string]int)
}

// Times is how often something was asked since Set.
func (f *Faults) Times(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count[op]
}

var transport = &http.Transport{DisableCompression: true}

// RoundTrip implements [http.RoundTripper].
func (f *Faults) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	op := operation(r)
	nth := f.count[op]
	f.count[op]++
	var fail Fault
	if f.plan != nil {
		fail = f.plan(op, nth)
	}
	f.mu.Unlock()
	if fail == nil {
		return transport.RoundTrip(r)
	}
	return fail(transport, r)
}

// operation names a request as S3 does.
func operation(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && q.Has("uploads"):
		return "ListMultipartUploads"
	case r.Method == http.MethodGet && q.Has("list-type"):
		return "ListObjectsV2"
	case r.Method == http.MethodPut && q.Has("partNumber"):
		return "UploadPart"
	case r.Method == http.MethodPost && q.Has("uploads"):
		return "CreateMultipartUpload"
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return "CompleteMultipartUpload"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "AbortMultipartUpload"
	default:
		return map[string]string{
			http.MethodGet: "GetObject", http.MethodHead: "HeadObject", http.MethodPut: "PutObject", http.MethodDelete: "DeleteObject",
		}[r.Method]
	}
}

// Proxy is the server's URL with faults between, for a client in another process. An error of theirs is a connection
// that is reset. It ends with the test.
func (s *Server) Proxy(t testing.TB, f *Faults) (address string) {
	t.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		Transport:    f,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { reset(w) },
		ErrorLog:     log.New(io.Discard, "", 0),
	})
	t.Cleanup(proxy.Close)
	return proxy.URL
}

// reset closes a connection so that whoever is at its other end sees it reset.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // else it is closed in order
	}
	_ = conn.Close()
}

// Answer answers in the server's stead. Of an empty code comes an answer that is not S3's.
func Answer(status int, code string) Fault {
	return func(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
		Swallow(r)
		body := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>injected</Message></Error>`, code)
		if code == "" {
			body = "<html><body><h1>No such page</h1><br></body></html>"
		}
		if r.Method == http.MethodHead {
			body = ""
		}
		return &http.Response{
			Status: fmt.Sprintf("%d injected", status), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"Content-Type": {"application/xml"}}, Request: r,
			Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
		}, nil
	}
}

// Swallow reads a request's body to its end, as a server does.
func Swallow(r *http.Request) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
}

var errConnection = errors.New("connection reset by the test")

// LostRequest is a connection that breaks before the server has the request.
func LostRequest(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
	Swallow(r)
	return nil, errConnection
}

// LostAnswer is a connection that breaks after the server has done what it was asked.
func LostAnswer(next http.RoundTripper, r *http.Request) (*http.Response, error) {
	resp, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return nil, errConnection
}

// Hang never answers.
func Hang(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
	Swallow(r)
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// Slow answers that much later.
func Slow(d time.Duration) Fault {
	return func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return next.RoundTrip(r)
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
}

// CutAt breaks the answer's body after n bytes.
func CutAt(n int64) Fault {
	return bodyAt(n, func(context.Context) error { return io.ErrUnexpectedEOF })
}

// HangAt goes on with the answer's body no more after n bytes.
func HangAt(n int64) Fault {
	return bodyAt(n, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
}

func bodyAt(n int64, then func(context.Context) error) Fault {
	return func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		resp.Body = &cutBody{body: resp.Body, left: n, then: func() error { return then(r.Context()) }}
		return resp, nil
	}
}

type cutBody struct {
	body io.ReadCloser
	left int64
	then func() error
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, c.then()
	}
	n, err := c.body.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

func (c *cutBody) Close() error { return c.body.Close() }

// First has a fault the first so many times that op is asked.
func First(times int, op string, f Fault) func(string, int) Fault {
	return func(asked string, nth int) Fault {
		if asked == op && nth < times {
			return f
		}
		return nil
	}
}

// Always has a fault each time that op is asked.
func Always(op string, f Fault) func(string, int) Fault { return First(1<<30, op, f) }
