package main_test

import (
	"bytes"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/pgtest"
	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/internal/s3test"
)

// passing are faults that another attempt gets past.
var passing = []s3test.Fault{
	s3test.LostAnswer, // first: of what is stored
	s3test.Answer(500, "InternalError"),
	s3test.LostRequest,
	s3test.CutAt(100),
	s3test.Slow(100 * time.Millisecond),
	s3test.Answer(503, "SlowDown"),
}

// TestNixPushesAndPullsThroughFaultsOfS3 has every fourth request of each kind meet one fault after the other.
func TestNixPushesAndPullsThroughFaultsOfS3(t *testing.T) {
	top := realnix.Closure(t, 10)
	source := startServer(t, "--store", "local", "--compression", "none")
	nix := realnix.Get(t, "2.34")
	s, f := s3test.Start(t), s3test.NewFaults()
	u := startOverS3(t, s, s.Proxy(t, f), "")
	f.Set(func(_ string, nth int) s3test.Fault {
		if nth%4 != 0 {
			return nil
		}
		return passing[nth/4%len(passing)]
	})
	from, to := nix.TempDir(t), nix.TempDir(t)
	nix.Run(t, "nix", append(source.trusting(), "copy", "--from", source.URL, "--to", from, top)...)
	push := append(u.netrc(t, nix, u.token(t, "push")), "copy", "--from", from, "--no-check-sigs", "--to",
		u.URL+"?compression=zstd", top)
	nix.Run(t, "nix", push...)
	nix.Run(t, "nix", append(u.trusting(), "copy", "--refresh", "--from", u.URL, "--to", to, top)...)
	nix.Run(t, "nix", "store", "verify", "--store", to, "--recursive", "--no-trust", top)
	for _, op := range []string{"PutObject", "GetObject"} {
		require.Greater(t, f.Times(op), 4*(len(passing)-1), "each fault was met by a %s", op)
	}
	u.succeed(t, "fsck", "--content")
	f.Set(nil)
	require.Empty(t, s.Uploads(t))
	before := u.files(t)
	nix.Run(t, "nix", append(push, "--refresh")...)
	require.Equal(t, before, u.files(t), "a second push finds all of it there")
}

// TestWhatS3CannotDoIsToldAndMendedByASecondPush has faults that do not pass: nothing wrong is served, nothing that is there
// is said to be absent, and when S3 is well again a second push completes what the first one could not.
func TestWhatS3CannotDoIsToldAndMendedByASecondPush(t *testing.T) {
	s, f := s3test.Start(t), s3test.NewFaults()
	u := startOverS3(t, s, s.Proxy(t, f), "")
	push := u.token(t, "push")
	lib, app, tool, suite, lone := family(t)
	u.push(t, push, lib, app)
	for _, c := range []struct {
		name, op string // "": each
		fault    s3test.Fault
		says     string // the log, "" where it all goes well in the end
	}{
		{"errors", "", s3test.Answer(500, "InternalError"), "InternalError"},
		{"no connection", "", s3test.LostRequest, "s3: open"},
		{"no right any more", "", s3test.Answer(403, "AccessDenied"), "AccessDenied"},
		{"no room", "PutObject", s3test.Answer(507, "InsufficientStorage"), "s3: put"},
		{"no answer to a write", "PutObject", s3test.LostAnswer, ""},
	} {
		seen := len(u.log.String())
		f.Set(func(op string, _ int) s3test.Fault {
			if c.op == "" || c.op == op {
				return c.fault
			}
			return nil
		})
		var work sync.WaitGroup
		work.Go(func() { u.pushOnce(t.Context(), push, lone) })
		for _, p := range []made{lib, app} {
			for path, want := range map[string][]byte{p.key(): nil, "/" + p.info.URL: p.archive} {
				work.Go(func() {
					a := get(t, u.URL+path)
					if a.status == http.StatusOK && want != nil && a.err == nil && !bytes.Equal(want, a.body) {
						t.Errorf("%s: %s is served wrong", c.name, path)
					}
					if a.err == nil && a.status != http.StatusOK && a.status < 500 {
						t.Errorf("%s: %s is there, and said to be %d", c.name, path, a.status)
					}
				})
			}
		}
		work.Go(func() {
			a := u.send(t, http.MethodPut, "/"+tool.info.URL, push, bytes.NewReader(tool.archive))
			if a.status < 500 != (c.says == "") {
				t.Errorf("%s: an upload is answered %d %s", c.name, a.status, a.body)
			}
		})
		work.Wait()
		f.Set(nil)
		require.Contains(t, u.log.String()[seen:], c.says, "%s: the log says what was the matter", c.name)
		for _, p := range []made{lib, app} {
			require.True(t, u.served(t, p), c.name)
		}
	}
	u.push(t, push, tool, suite, lone)
	u.succeed(t, "fsck", "--content")
	for _, p := range []made{lib, app, tool, suite, lone} {
		require.Equal(t, p.archive, get(t, u.URL+"/"+p.info.URL).body)
	}
}

// TestAPushBeginsAgainWherePostgreSQLWentDown has PostgreSQL crash when the third object of a push is on its way.
func TestAPushBeginsAgainWherePostgreSQLWentDown(t *testing.T) {
	top := realnix.Closure(t, 10)
	nix := realnix.Get(t, "2.34")
	source := startServer(t, "--store", "local", "--compression", "none")
	s, f, postgresql := s3test.Start(t), s3test.NewFaults(), pgtest.Start(t)
	u := startOverS3(t, s, s.Proxy(t, f), postgresql.Database(t))
	var once sync.Once
	f.Set(func(op string, nth int) s3test.Fault {
		if op != "PutObject" || nth < 2 {
			return nil
		}
		return func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			once.Do(func() { postgresql.Restart(t) })
			return next.RoundTrip(r)
		}
	})
	from, to := nix.TempDir(t), nix.TempDir(t)
	nix.Run(t, "nix", append(source.trusting(), "copy", "--from", source.URL, "--to", from, top)...)
	push := append(u.netrc(t, nix, u.token(t, "push")), "copy", "--from", from, "--no-check-sigs", "--to",
		u.URL+"?compression=zstd", top)
	out, err := nix.Command(t, "nix", push...).CombinedOutput()
	if err != nil {
		require.Contains(t, string(out), "HTTP error 5", "Nix is told")
	}
	nix.Run(t, "nix", append(push, "--refresh")...)
	nix.Run(t, "nix", append(u.trusting(), "copy", "--refresh", "--from", u.URL, "--to", to, top)...)
	nix.Run(t, "nix", "store", "verify", "--store", to, "--recursive", "--no-trust", top)
	u.succeed(t, "fsck", "--content")
}
