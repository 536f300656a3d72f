// Package protocol checks a server of a Nix binary cache against docs/protocol.md: what Nix relies on, and what this
// project promises beyond.
//
// [Check] runs every check against a [Subject] and returns a [Result] each. A check fails only where a client would be
// misled or stranded. An endpoint that Nix does without and the server doesn't have is [Absent], and what cannot be tried
// with the paths at hand is [Skipped].
package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/bench/internal/rawhttp"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// Outcome is what came of a check.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "pass"
	Failed  Outcome = "FAIL"
	Skipped Outcome = "skip"
	Absent  Outcome = "absent"
)

// Result is one check's outcome.
type Result struct {
	Check   string
	Outcome Outcome
	Reason  string // why, if it isn't a pass
}

// Subject is a server and what is known of it. It is not changed.
type Subject struct {
	URL string // http://HOST:PORT[/PATH] or https://HOST[:PORT][/PATH]
	// Paths are store paths that the server must have. At least one; the more kinds there are, the more is checked.
	Paths []narinfo.StorePath
	// Keys are those of which each narinfo must have a signature. Empty: signatures aren't checked.
	Keys signing.Keyring
	// Dump opens a path's NAR as a local store has it. An error that is ErrNoDump says that it has not.
	// nil: there is no local store.
	Dump func(ctx context.Context, path narinfo.StorePath) (io.ReadCloser, error)
	// Slowly is how long the slow reader takes its time. 0: three seconds.
	Slowly time.Duration
}

// ErrNoDump is what Subject.Dump returns for a path that the local store doesn't have.
var ErrNoDump = errors.New("protocol: not in the local store")

// maxBody is the largest answer that is kept in memory. Archives that are larger are read, but not looked into.
const maxBody = 256 << 20

// patience is how long an answer may take.
const patience = 2 * time.Minute

// check is one thing to check.
type check struct {
	name string
	run  func(ctx context.Context, s *session) error
}

func checks() []check {
	var all []check
	for _, group := range [][]check{metadataChecks, archiveChecks, rangeChecks, endpointChecks, connectionChecks} {
		all = append(all, group...)
	}
	return all
}

// Names returns the checks' names, in the order of their results.
func Names() []string {
	var names []string
	for _, c := range checks() {
		names = append(names, c.name)
	}
	return names
}

// Check checks a server. The error is of what kept it from checking at all.
func Check(ctx context.Context, subject *Subject) ([]Result, error) {
	s, err := newSession(subject)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	var results []Result
	for _, c := range checks() {
		results = append(results, s.result(ctx, c))
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
	}
	return results, nil
}

func (s *session) result(ctx context.Context, c check) Result {
	err := c.run(ctx, s)
	_ = s.conn.Close() // each check begins with a connection of its own
	var why outcomeError
	switch {
	case err == nil:
		return Result{c.name, Passed, ""}
	case errors.As(err, &why):
		return Result{c.name, why.outcome, why.reason}
	}
	return Result{c.name, Failed, err.Error()}
}

// outcomeError ends a check otherwise than by pass or failure.
type outcomeError struct {
	outcome Outcome
	reason  string
}

func (e outcomeError) Error() string { return e.reason }

func skip(format string, args ...any) error {
	return outcomeError{Skipped, fmt.Sprintf(format, args...)}
}

func absent(format string, args ...any) error {
	return outcomeError{Absent, fmt.Sprintf(format, args...)}
}

// session is a subject that is being checked.
type session struct {
	*Subject
	prefix string // of each path on the server
	addr   string
	dial   func(addr string) *rawhttp.Conn
	conn   *rawhttp.Conn
	items  []item
}

// item is a path and what the server says of it.
type item struct {
	path narinfo.StorePath
	text []byte // of the narinfo
	info *narinfo.Info
}

// narinfoURL and the like are paths without the prefix, which get adds.
func narinfoURL(p narinfo.StorePath) string { return "/" + string(p.HashPart()) + ".narinfo" }
func (i *item) narURL() string              { return "/" + i.info.URL }

func newSession(subject *Subject) (*session, error) {
	u, err := url.Parse(subject.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("protocol: %q is not http://HOST:PORT[/PATH]", subject.URL)
	}
	if len(subject.Paths) == 0 {
		return nil, errors.New("protocol: no paths to ask for")
	}
	s := &session{Subject: subject, prefix: strings.TrimSuffix(u.EscapedPath(), "/"), addr: u.Host}
	s.dial = func(addr string) *rawhttp.Conn { return rawhttp.New(addr, u.Host) }
	port := ":80"
	if u.Scheme == "https" {
		port = ":443"
		s.dial = func(addr string) *rawhttp.Conn { return rawhttp.NewTLS(addr, u.Host) }
	}
	if u.Port() == "" {
		s.addr += port
	}
	s.conn = s.dial(s.addr)
	return s, nil
}

func (s *session) Close() { _ = s.conn.Close() }

// open reads the narinfos, without which nothing else can be asked for. What is wrong with them is for checks to say.
func (s *session) open(ctx context.Context) error {
	for _, p := range s.Paths {
		a, err := s.get(ctx, narinfoURL(p))
		if err != nil {
			return fmt.Errorf("protocol: %s: %w", s.URL, err)
		}
		if a.Status != 200 {
			return fmt.Errorf("protocol: %s: status %d for the narinfo of %s", s.URL, a.Status, p)
		}
		info, err := narinfo.Parse(a.body)
		if err != nil {
			return fmt.Errorf("protocol: %s: narinfo of %s: %w", s.URL, p, err)
		}
		s.items = append(s.items, item{p, a.body, info})
	}
	return nil
}

// answer is an answer with its whole body.
type answer struct {
	rawhttp.Response
	body []byte
}

// get asks for a path and reads the whole answer.
func (s *session) get(ctx context.Context, path string, headers ...string) (*answer, error) {
	return s.do(ctx, "GET", path, headers...)
}

func (s *session) do(ctx context.Context, method, path string, headers ...string) (*answer, error) {
	r, err := s.begin(ctx, method, path, headers...)
	if err != nil {
		return nil, err
	}
	a := &answer{Response: r}
	a.Header = append([]byte(nil), r.Header...)
	a.body, err = io.ReadAll(io.LimitReader(s.conn, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if len(a.body) > maxBody {
		return nil, fmt.Errorf("%s %s: more than %d bytes", method, path, maxBody)
	}
	return a, nil
}

// begin asks for a path and leaves the body to be read from s.conn.
func (s *session) begin(ctx context.Context, method, path string, headers ...string) (rawhttp.Response, error) {
	if err := s.conn.Dial(ctx); err != nil {
		return rawhttp.Response{}, err
	}
	if err := s.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return rawhttp.Response{}, err
	}
	r, err := s.conn.Do(ctx, method, s.prefix+path, headers...)
	if err != nil {
		return r, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return r, nil
}

// want gets a path and fails if the status is another.
func (s *session) want(ctx context.Context, status int, path string, headers ...string) (*answer, error) {
	a, err := s.get(ctx, path, headers...)
	if err != nil {
		return nil, err
	}
	if a.Status != status {
		return nil, fmt.Errorf("%s%s: status %d, not %d", path, withHeaders(headers), a.Status, status)
	}
	return a, nil
}

func withHeaders(headers []string) string {
	if len(headers) == 0 {
		return ""
	}
	return " with " + strings.Join(headers, ", ")
}

// optional gets a path of an endpoint that a server may not have.
func (s *session) optional(ctx context.Context, path string) (*answer, error) {
	a, err := s.get(ctx, path)
	if err != nil {
		return nil, err
	}
	switch {
	case a.Status == 404:
		return nil, absent("%s: 404", path)
	case a.Status != 200:
		return nil, fmt.Errorf("%s: status %d", path, a.Status)
	case a.Field("Content-Encoding") != "":
		return nil, skip("%s has the content encoding %q, which isn't read here", path, a.Field("Content-Encoding"))
	}
	return a, nil
}

// archive returns an item whose archive can be looked into, the largest there is, and the archive's bytes on the wire.
func (s *session) archive(ctx context.Context) (*item, *answer, error) {
	var best *item
	for i := range s.items {
		if it := &s.items[i]; wireSize(it.info) <= maxBody/4 && (best == nil || it.info.NarSize > best.info.NarSize) {
			best = it
		}
	}
	if best == nil {
		return nil, nil, skip("every path is too large")
	}
	a, err := s.want(ctx, 200, best.narURL())
	return best, a, err
}

// wireSize is how long an archive is as a file, or how long it may be.
func wireSize(info *narinfo.Info) int64 {
	if info.FileSize > 0 {
		return info.FileSize
	}
	return info.NarSize
}
