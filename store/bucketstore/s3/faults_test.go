package s3_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/s3test"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore/filestest"
	"github.com/voidnxlab/nixtrap/store/bucketstore/s3"
)

// faultyBucket opens a bucket whose transport has faults, and is patient for a second.
func faultyBucket(t *testing.T) (*s3.Bucket, *s3test.Faults, *s3test.Server) {
	t.Helper()
	t.Parallel()
	s := s3test.Start(t)
	f := s3test.NewFaults()
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
	s3test.Fault
}

var passing = []named{
	{"500", s3test.Answer(500, "InternalError")},
	{"503 SlowDown", s3test.Answer(503, "SlowDown")},
	{"503 of a proxy", s3test.Answer(503, "")},
	{"429", s3test.Answer(429, "TooManyRequests")},
	{"408", s3test.Answer(408, "RequestTimeout")},
	{"lost request", s3test.LostRequest},
	{"lost answer", s3test.LostAnswer},
	{"no answer", s3test.Hang},
}

var final = []named{
	{"403", s3test.Answer(403, "AccessDenied")},
	{"403 of a proxy", s3test.Answer(403, "")},
	{"404 without the bucket", s3test.Answer(404, "NoSuchBucket")},
	{"404 of a proxy", s3test.Answer(404, "")},
	{"400", s3test.Answer(400, "InvalidRequest")},
	{"501", s3test.Answer(501, "NotImplemented")},
	{"301", s3test.Answer(301, "PermanentRedirect")},
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
		f.Set(s3test.First(2, op, p.Fault))
		require.NoError(t, putBytes(t, b, "nar/a", content), p.name)
		f.Set(nil)
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
			f.Set(s3test.Always(op, p.Fault))
			err := putBytes(t, b, key, content)
			f.Set(nil)
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
			f.Set(s3test.Always(op, p.Fault))
			err := do()
			require.Error(t, err, "%s, %s", op, p.name)
			require.NotErrorIs(t, err, store.ErrNotFound, "%s, %s", op, p.name)
			require.Equal(t, 1, f.Times(op), "%s, %s", op, p.name)
		}
	}
	f.Set(nil)
	requireContent(t, b, "a", small, "in the end")
}

func TestOpenSurvivesWhatPasses(t *testing.T) {
	b, f, _ := faultyBucket(t)
	require.NoError(t, putBytes(t, b, "a", small))
	require.NoError(t, putBytes(t, b, "empty", nil))
	bodies := []named{{"cut at 0", s3test.CutAt(0)}, {"cut at 5000", s3test.CutAt(5000)}, {"hang at 5000", s3test.HangAt(5000)}}
	for _, p := range slices.Concat(passing, bodies) {
		f.Set(s3test.First(2, "GetObject", p.Fault))
		requireContent(t, b, "a", small, p.name)
		f.Set(s3test.First(2, "GetObject", p.Fault))
		_, err := b.Open(t.Context(), "absent")
		require.ErrorIs(t, err, store.ErrNotFound, p.name)
		f.Set(s3test.First(2, "HeadObject", p.Fault))
		requireContent(t, b, "empty", nil, p.name)
		for _, key := range []string{"a", "absent"} {
			if p.name == "hang at 5000" || p.name == "no answer" && key == "a" {
				continue // five times as long as patience
			}
			f.Set(s3test.Always("GetObject", p.Fault))
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
		fault s3test.Fault
		ok    bool
	}{
		{"cut each MiB", s3test.CutAt(1 << 20), true},
		{"hang each 2 MiB", s3test.HangAt(2 << 20), true},
		{"cut each 100 KiB", s3test.CutAt(100 << 10), false},
		{"never a byte", s3test.CutAt(0), false},
	} {
		f.Set(func(op string, nth int) s3test.Fault {
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
		require.Less(t, f.Times("GetObject"), 10, "%s: a bounded number of times", c.name)
	}
	for _, p := range passing {
		f.Set(func(op string, nth int) s3test.Fault {
			if op == "GetObject" && (nth == 1 || nth == 2) {
				return p.Fault
			}
			return nil
		})
		requireContent(t, b, "a", large, p.name)
	}
	for _, p := range final {
		f.Set(func(op string, nth int) s3test.Fault {
			if op == "GetObject" && nth > 0 {
				return p.Fault
			}
			return nil
		})
		_, err := readAll(t, b, "a")
		require.Error(t, err, p.name)
		require.NotErrorIs(t, err, store.ErrNotFound, p.name)
		require.Equal(t, 2, f.Times("GetObject"), p.name)
	}
}

// TestNoServerMixesBytes has one that heeds neither Range nor If-Match, and an object that is replaced.
func TestNoServerMixesBytes(t *testing.T) {
	b, f, _ := faultyBucket(t)
	other := filestest.Content(9, len(large))
	for _, header := range []string{"If-Match", "Range"} {
		f.Set(nil)
		require.NoError(t, putBytes(t, b, "a", large))
		o, err := b.Open(t.Context(), "a")
		require.NoError(t, err)
		require.NoError(t, putBytes(t, b, "a", other))
		f.Set(s3test.Always("GetObject", func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
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
		f.Set(s3test.First(2, "DeleteObject", p.Fault))
		require.NoError(t, b.Remove(t.Context(), "a"), p.name)
		f.Set(nil)
		_, err := b.Open(t.Context(), "a")
		require.ErrorIs(t, err, store.ErrNotFound, p.name)
		f.Set(s3test.Always("DeleteObject", p.Fault))
		require.Error(t, b.Remove(t.Context(), "a"), p.name)
	}
}

// TestAnAcknowledgedObjectIsLookedAt has a server that takes an object and has none, or another.
func TestAnAcknowledgedObjectIsLookedAt(t *testing.T) {
	b, f, _ := faultyBucket(t)
	f.Set(s3test.Always("PutObject", func(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
		s3test.Swallow(r)
		return &http.Response{
			StatusCode: 200, Header: http.Header{"Etag": {`"abc"`}}, Body: http.NoBody, Request: r, ProtoMajor: 1, ProtoMinor: 1,
		}, nil
	}))
	require.ErrorContains(t, putBytes(t, b, "a", small), "has none")
	f.Set(s3test.Always("HeadObject", func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
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
	f.Set(func(op string, _ int) s3test.Fault {
		if op == "PutObject" {
			return s3test.LostAnswer
		}
		return s3test.LostRequest
	})
	err := putBytes(t, b, "a", small)
	require.ErrorContains(t, err, "can't be told")
}

func TestAContextEndsThePauses(t *testing.T) {
	s := s3test.Start(t)
	f := s3test.NewFaults()
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
		f.Set(s3test.Always(op, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			time.AfterFunc(50*time.Millisecond, cancel)
			return s3test.Answer(503, "SlowDown")(next, r)
		}))
		require.ErrorIs(t, do(ctx), context.Canceled, op)
		require.Equal(t, 1, f.Times(op), op)
	}
}

// TestACancelledPutEndsWhatItHasBegun has a context that ends with a request on its way: what that does is known then.
func TestACancelledPutEndsWhatItHasBegun(t *testing.T) {
	b, f, s := faultyBucket(t)
	for _, c := range uploads {
		ctx, cancel := context.WithCancel(t.Context())
		f.Set(s3test.Always(c.op, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			cancel()
			return next.RoundTrip(r)
		}))
		_, err := b.Put(ctx, "a", bytes.NewReader(c.content), -1)
		f.Set(nil)
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
		f.Set(s3test.Always(op, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			bodies <- r.Body
			r.Body = nil
			return s3test.Answer(400, "InvalidRequest")(next, r)
		}))
		require.Error(t, putBytes(t, b, "a", content), op)
		f.Set(nil)
		body := <-bodies
		_, err := body.Read(make([]byte, 1))
		require.Error(t, err, op)
		require.NotErrorIs(t, err, io.EOF, "%s: what is cut must not look whole", op)
	}
}
