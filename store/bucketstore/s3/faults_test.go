package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/s3test"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore/filestest"
	"github.com/voidnxlab/nixtrap/store/bucketstore/s3"
)

// fault does something else with a request than to send it and hand its answer back.
type fault func(next http.RoundTripper, r *http.Request) (*http.Response, error)

// faults is a transport that has faults, as long as plan says so. plan is told what is asked, and how often it was
// before; nil is no fault.
type faults struct {
	mu    sync.Mutex
	plan  func(op string, nth int) fault
	count map[string]int
}

func (f *faults) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	op := operation(r)
	nth := f.count[op]
	f.count[op]++
	var fail fault
	if f.plan != nil {
		fail = f.plan(op, nth)
	}
	f.mu.Unlock()
	if fail == nil {
		return transport.RoundTrip(r)
	}
	return fail(transport, r)
}

// set makes a plan, and counts anew.
func (f *faults) set(plan func(op string, nth int) fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan, f.count = plan, make(map[string]int)
}

func (f *faults) times(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count[op]
}

var transport = &http.Transport{DisableCompression: true}

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

// answer answers in the server's stead. Of an empty code comes an answer that is not S3's.
func answer(status int, code string) fault {
	return func(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
		swallow(r)
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

func swallow(r *http.Request) {
	if r.Body != nil {
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
}

var errConnection = errors.New("connection reset by the test")

// lostRequest is a connection that breaks before the server has the request.
func lostRequest(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
	swallow(r)
	return nil, errConnection
}

// lostAnswer is a connection that breaks after the server has done what it was asked.
func lostAnswer(next http.RoundTripper, r *http.Request) (*http.Response, error) {
	resp, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return nil, errConnection
}

// hang never answers.
func hang(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
	swallow(r)
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// cutAt breaks the answer's body after n bytes.
func cutAt(n int64) fault {
	return bodyAt(n, func(context.Context) error { return io.ErrUnexpectedEOF })
}

// hangAt goes on with the answer's body no more after n bytes.
func hangAt(n int64) fault {
	return bodyAt(n, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
}

func bodyAt(n int64, then func(context.Context) error) fault {
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

// first has a fault the first so many times that op is asked; always does so each time.
func first(times int, op string, f fault) func(string, int) fault {
	return func(asked string, nth int) fault {
		if asked == op && nth < times {
			return f
		}
		return nil
	}
}

func always(op string, f fault) func(string, int) fault { return first(1<<30, op, f) }

// faultyBucket opens a bucket whose transport has faults, and is patient for a second.
func faultyBucket(t *testing.T) (*s3.Bucket, *faults, *s3test.Server) {
	t.Helper()
	t.Parallel()
	s := s3test.Start(t)
	f := &faults{count: make(map[string]int)}
	o := options(s)
	o.Transport = f
	o.PartSize = s3.MinPartSize
	o.SetPatience(time.Second, time.Millisecond)
	return open(t, o), f, s
}

func putBytes(t *testing.T, b *s3.Bucket, key string, content []byte) error {
	t.Helper()
	state, err := b.Put(t.Context(), key, bytes.NewReader(content), -1)
	if err == nil {
		require.Equal(t, int64(len(content)), state.Size)
		require.False(t, state.Modified.IsZero())
	}
	return err
}

func readAll(t *testing.T, b *s3.Bucket, key string) ([]byte, error) {
	t.Helper()
	o, err := b.Open(t.Context(), key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return io.ReadAll(o)
}

func requireContent(t *testing.T, b *s3.Bucket, key string, want []byte, of string) {
	t.Helper()
	got, err := readAll(t, b, key)
	require.NoError(t, err, of)
	require.True(t, bytes.Equal(want, got), "%s: %d bytes are other than the %d that were put", of, len(got), len(want))
}

type named struct {
	name string
	fault
}

var passing = []named{
	{"500", answer(500, "InternalError")},
	{"503 SlowDown", answer(503, "SlowDown")},
	{"503 of a proxy", answer(503, "")},
	{"429", answer(429, "TooManyRequests")},
	{"408", answer(408, "RequestTimeout")},
	{"lost request", lostRequest},
	{"lost answer", lostAnswer},
	{"no answer", hang},
}

var final = []named{
	{"403", answer(403, "AccessDenied")},
	{"403 of a proxy", answer(403, "")},
	{"404 without the bucket", answer(404, "NoSuchBucket")},
	{"404 of a proxy", answer(404, "")},
	{"400", answer(400, "InvalidRequest")},
	{"501", answer(501, "NotImplemented")},
	{"301", answer(301, "PermanentRedirect")},
}

// uploads are the requests of a Put, and content for which it makes them.
var uploads = []struct {
	op      string
	content []byte
}{
	{"PutObject", small}, {"CreateMultipartUpload", large}, {"UploadPart", large}, {"CompleteMultipartUpload", large},
	{"HeadObject", small},
}

var (
	small = filestest.Content(1, 10000)
	large = filestest.Content(2, 2*s3.MinPartSize+1000)
)

func TestPutSurvivesWhatPasses(t *testing.T) {
	for _, c := range uploads {
		t.Run(c.op, func(t *testing.T) { testPutSurvives(t, c.op, c.content) })
	}
}

func testPutSurvives(t *testing.T, op string, content []byte) {
	b, f, s := faultyBucket(t)
	for _, p := range passing {
		if p.name == "no answer" && op == "CompleteMultipartUpload" {
			continue // awaited ten times as long
		}
		f.set(first(2, op, p.fault))
		require.NoError(t, putBytes(t, b, "nar/a", content), p.name)
		f.set(nil)
		requireContent(t, b, "nar/a", content, p.name)
		require.NoError(t, b.Remove(t.Context(), "nar/a"))
		left := len(s.Uploads(t))
		if op != "CreateMultipartUpload" || p.name != "lost answer" {
			require.Zero(t, left, p.name)
			continue
		}
		require.Equal(t, 2, left, "nobody was told these uploads' ids")
		removed, err := b.AbortIncomplete(t.Context(), time.Hour)
		require.NoError(t, err)
		require.Zero(t, removed, "they may be going on")
		removed, err = b.AbortIncomplete(t.Context(), -time.Minute)
		require.NoError(t, err)
		require.Equal(t, 2, removed)
		require.Empty(t, s.Uploads(t))
	}
}

// TestPutThatFailsLeavesWhatWas has a fault that does not pass. If only answers are lost Put knows its own.
func TestPutThatFailsLeavesWhatWas(t *testing.T) {
	for _, c := range uploads {
		if c.op != "HeadObject" {
			t.Run(c.op, func(t *testing.T) { testPutFails(t, c.op, c.content) })
		}
	}
}

func testPutFails(t *testing.T, op string, content []byte) {
	b, f, s := faultyBucket(t)
	old := filestest.Content(3, len(content)) // not to be told from the new by its size
	for _, p := range slices.Concat(passing, final) {
		if p.name == "no answer" && op != "PutObject" {
			continue // five times as long as patience, ten times that for the last request
		}
		for _, key := range []string{"new", "there"} {
			require.NoError(t, putBytes(t, b, "there", old))
			f.set(always(op, p.fault))
			err := putBytes(t, b, key, content)
			f.set(nil)
			if p.name == "lost answer" && (op == "PutObject" || op == "CompleteMultipartUpload") {
				require.NoError(t, err, p.name)
				requireContent(t, b, key, content, p.name)
				require.NoError(t, b.Remove(t.Context(), key))
				continue
			}
			require.Error(t, err, p.name)
			require.NotErrorIs(t, err, store.ErrNotFound, p.name)
			require.NotErrorIs(t, err, context.DeadlineExceeded, "%s: not the caller's", p.name)
			if status, _, _ := strings.Cut(p.name, " "); len(status) == 3 {
				require.ErrorContains(t, err, "HTTP "+status, p.name)
			}
			requireContent(t, b, "there", old, p.name)
			_, err = b.Open(t.Context(), "new")
			require.ErrorIs(t, err, store.ErrNotFound, p.name)
		}
		if op == "CreateMultipartUpload" && p.name == "lost answer" {
			_, err := b.AbortIncomplete(t.Context(), -time.Minute)
			require.NoError(t, err)
		}
		require.Empty(t, s.Uploads(t), p.name)
	}
}

func TestFinalAnswersAreNotAskedForAgain(t *testing.T) {
	b, f, _ := faultyBucket(t)
	require.NoError(t, putBytes(t, b, "a", small))
	for _, p := range final {
		for op, do := range map[string]func() error{
			"GetObject":     func() error { _, err := b.Open(t.Context(), "a"); return err },
			"PutObject":     func() error { return putBytes(t, b, "a", small) },
			"DeleteObject":  func() error { return b.Remove(t.Context(), "a") },
			"ListObjectsV2": func() error { return list(t, b, "", nil) },
		} {
			f.set(always(op, p.fault))
			err := do()
			require.Error(t, err, "%s, %s", op, p.name)
			require.NotErrorIs(t, err, store.ErrNotFound, "%s, %s", op, p.name)
			require.Equal(t, 1, f.times(op), "%s, %s", op, p.name)
		}
	}
	f.set(nil)
	requireContent(t, b, "a", small, "in the end")
}

func TestOpenSurvivesWhatPasses(t *testing.T) {
	b, f, _ := faultyBucket(t)
	require.NoError(t, putBytes(t, b, "a", small))
	require.NoError(t, putBytes(t, b, "empty", nil))
	bodies := []named{{"cut at 0", cutAt(0)}, {"cut at 5000", cutAt(5000)}, {"hang at 5000", hangAt(5000)}}
	for _, p := range slices.Concat(passing, bodies) {
		f.set(first(2, "GetObject", p.fault))
		requireContent(t, b, "a", small, p.name)
		f.set(first(2, "GetObject", p.fault))
		_, err := b.Open(t.Context(), "absent")
		require.ErrorIs(t, err, store.ErrNotFound, p.name)
		f.set(first(2, "HeadObject", p.fault))
		requireContent(t, b, "empty", nil, p.name)
		for _, key := range []string{"a", "absent"} {
			if p.name == "hang at 5000" || p.name == "no answer" && key == "a" {
				continue // five times as long as patience
			}
			f.set(always("GetObject", p.fault))
			_, err := b.Open(t.Context(), key)
			require.Error(t, err, p.name)
			if key == "a" || !strings.HasSuffix(p.name, "5000") { // what says that a file is absent is shorter than that
				require.NotErrorIs(t, err, store.ErrNotFound, p.name)
			}
		}
	}
}

func TestReadGoesOnWhereAConnectionBroke(t *testing.T) {
	b, f, _ := faultyBucket(t)
	require.NoError(t, putBytes(t, b, "a", large))
	for _, c := range []struct {
		name  string
		fault fault
		ok    bool
	}{
		{"cut each MiB", cutAt(1 << 20), true},
		{"hang each 2 MiB", hangAt(2 << 20), true},
		{"cut each 100 KiB", cutAt(100 << 10), false},
		{"never a byte", cutAt(0), false},
	} {
		f.set(func(op string, nth int) fault {
			if op == "GetObject" && nth > 0 {
				return c.fault
			}
			return nil
		})
		got, err := readAll(t, b, "a")
		require.True(t, bytes.HasPrefix(large, got), "%s: right as far as it goes", c.name)
		if c.ok {
			require.NoError(t, err, c.name)
			require.Len(t, got, len(large), c.name)
			continue
		}
		require.Error(t, err, c.name)
		require.Less(t, f.times("GetObject"), 10, "%s: a bounded number of times", c.name)
	}
	for _, p := range passing {
		f.set(func(op string, nth int) fault {
			if op == "GetObject" && (nth == 1 || nth == 2) {
				return p.fault
			}
			return nil
		})
		requireContent(t, b, "a", large, p.name)
	}
	for _, p := range final {
		f.set(func(op string, nth int) fault {
			if op == "GetObject" && nth > 0 {
				return p.fault
			}
			return nil
		})
		_, err := readAll(t, b, "a")
		require.Error(t, err, p.name)
		require.NotErrorIs(t, err, store.ErrNotFound, p.name)
		require.Equal(t, 2, f.times("GetObject"), p.name)
	}
}

// TestNoServerMixesBytes has one that heeds neither Range nor If-Match, and an object that is replaced.
func TestNoServerMixesBytes(t *testing.T) {
	b, f, _ := faultyBucket(t)
	other := filestest.Content(9, len(large))
	for _, header := range []string{"If-Match", "Range"} {
		f.set(nil)
		require.NoError(t, putBytes(t, b, "a", large))
		o, err := b.Open(t.Context(), "a")
		require.NoError(t, err)
		require.NoError(t, putBytes(t, b, "a", other))
		f.set(always("GetObject", func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			c := r.Clone(r.Context())
			c.Header.Del("If-Match")
			if header == "Range" {
				c.Header.Del("Range") // not signed
			}
			return next.RoundTrip(c)
		}))
		got, err := io.ReadAll(o)
		require.Error(t, err, header)
		require.True(t, bytes.HasPrefix(large, got), header)
		require.NoError(t, o.Close())
	}
	got, err := readAll(t, b, "a")
	require.Error(t, err, "a part was asked for, and all came")
	require.True(t, bytes.HasPrefix(other, got))
}

func TestRemoveSurvivesWhatPasses(t *testing.T) {
	b, f, _ := faultyBucket(t)
	for _, p := range passing {
		require.NoError(t, putBytes(t, b, "a", small))
		f.set(first(2, "DeleteObject", p.fault))
		require.NoError(t, b.Remove(t.Context(), "a"), p.name)
		f.set(nil)
		_, err := b.Open(t.Context(), "a")
		require.ErrorIs(t, err, store.ErrNotFound, p.name)
		f.set(always("DeleteObject", p.fault))
		require.Error(t, b.Remove(t.Context(), "a"), p.name)
	}
}

// TestAnAcknowledgedObjectIsLookedAt has a server that takes an object and has none, or another.
func TestAnAcknowledgedObjectIsLookedAt(t *testing.T) {
	b, f, _ := faultyBucket(t)
	f.set(always("PutObject", func(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
		swallow(r)
		return &http.Response{
			StatusCode: 200, Header: http.Header{"Etag": {`"abc"`}}, Body: http.NoBody, Request: r, ProtoMajor: 1, ProtoMinor: 1,
		}, nil
	}))
	require.ErrorContains(t, putBytes(t, b, "a", small), "has none")
	f.set(always("HeadObject", func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err == nil {
			resp.Header.Set("Content-Length", "9999")
		}
		return resp, err
	}))
	require.ErrorContains(t, putBytes(t, b, "a", small), "9999 of 10000 bytes")
}

// TestPutSaysWhereItCantTell has a server that takes an object, and is gone.
func TestPutSaysWhereItCantTell(t *testing.T) {
	b, f, _ := faultyBucket(t)
	f.set(func(op string, _ int) fault {
		if op == "PutObject" {
			return lostAnswer
		}
		return lostRequest
	})
	err := putBytes(t, b, "a", small)
	require.ErrorContains(t, err, "can't be told")
}

func TestAContextEndsThePauses(t *testing.T) {
	s := s3test.Start(t)
	f := &faults{count: make(map[string]int)}
	o := options(s)
	o.Transport = f
	o.SetPatience(10*time.Second, time.Hour)
	b := open(t, o)
	require.NoError(t, putBytes(t, b, "a", small))
	for op, do := range map[string]func(context.Context) error{
		"GetObject":     func(ctx context.Context) error { _, err := b.Open(ctx, "a"); return err },
		"PutObject":     func(ctx context.Context) error { _, err := b.Put(ctx, "b", bytes.NewReader(small), -1); return err },
		"DeleteObject":  func(ctx context.Context) error { return b.Remove(ctx, "a") },
		"ListObjectsV2": func(ctx context.Context) error { return list(t, b, "", ctx) },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		f.set(always(op, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			time.AfterFunc(50*time.Millisecond, cancel)
			return answer(503, "SlowDown")(next, r)
		}))
		require.ErrorIs(t, do(ctx), context.Canceled, op)
		require.Equal(t, 1, f.times(op), op)
	}
}

// TestACancelledPutEndsWhatItHasBegun has a context that ends with a request on its way: what that does is known then.
func TestACancelledPutEndsWhatItHasBegun(t *testing.T) {
	b, f, s := faultyBucket(t)
	for _, c := range uploads {
		ctx, cancel := context.WithCancel(t.Context())
		f.set(always(c.op, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			cancel()
			return next.RoundTrip(r)
		}))
		_, err := b.Put(ctx, "a", bytes.NewReader(c.content), -1)
		f.set(nil)
		if c.op == "CreateMultipartUpload" || c.op == "UploadPart" {
			require.ErrorIs(t, err, context.Canceled, c.op)
			_, err = b.Open(t.Context(), "a")
			require.ErrorIs(t, err, store.ErrNotFound, c.op)
		} else {
			require.NoError(t, err, c.op)
			requireContent(t, b, "a", c.content, c.op)
			require.NoError(t, b.Remove(t.Context(), "a"))
		}
		require.Empty(t, s.Uploads(t), c.op)
	}
}

// list lists, with the test's context where ctx is nil.
func list(t *testing.T, b *s3.Bucket, prefix string, ctx context.Context) error {
	t.Helper()
	if ctx == nil {
		ctx = t.Context()
	}
	for _, err := range b.List(ctx, prefix) {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestMemoryIsTakenBack has a transport that goes on reading a body after it has answered, as net/http's may: by then
// the memory may be another's.
func TestMemoryIsTakenBack(t *testing.T) {
	b, f, _ := faultyBucket(t)
	for op, content := range map[string][]byte{"PutObject": large[:s3.MinPartSize], "UploadPart": large} {
		bodies := make(chan io.Reader, 100)
		f.set(always(op, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			bodies <- r.Body
			r.Body = nil
			return answer(400, "InvalidRequest")(next, r)
		}))
		require.Error(t, putBytes(t, b, "a", content), op)
		f.set(nil)
		body := <-bodies
		_, err := body.Read(make([]byte, 1))
		require.Error(t, err, op)
		require.NotErrorIs(t, err, io.EOF, "%s: what is cut must not look whole", op)
	}
}
