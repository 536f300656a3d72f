package httpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/internal/narfile"
	"github.com/voidnxlab/nixtrap/store"
)

const userAgent = "nixtrap"

// checkRedirect lets go of the credentials where the standard library would still give them to a subdomain.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if r.URL.Host != via[0].URL.Host {
		r.Header.Del("Authorization")
	}
	if len(via) > 5 {
		return errors.New("more than five redirects")
	}
	if via[len(via)-1].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return errors.New("a redirect from https to http")
	}
	return nil
}

// resolve makes a request's URL out of a reference, as a narinfo has it, and refuses what leads to another host.
func (s *Store) resolve(ref string) (*url.URL, error) {
	u, err := url.Parse(ref)
	if err != nil {
		return nil, fmt.Errorf("httpstore: %s: malformed URL %q: %w", s, ref[:min(len(ref), 300)], store.ErrCorrupt)
	}
	u = s.base.ResolveReference(u)
	u.Fragment = ""
	upgrade := s.base.Scheme == "http" && u.Scheme == "https" && s.base.Port() == "" && u.Port() == ""
	if u.User != nil || !strings.EqualFold(u.Hostname(), s.base.Hostname()) || !upgrade && (u.Scheme != s.base.Scheme ||
		port(u) != port(s.base)) {
		return nil, fmt.Errorf("httpstore: %s: URL %q leads elsewhere: %w", s, ref[:min(len(ref), 300)],
			store.ErrCorrupt)
	}
	return u, nil
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}

// key is a reference to one of the cache's own files; every byte of its segments is taken literally.
func key(segments ...string) string {
	for n := range segments {
		segments[n] = url.PathEscape(segments[n])
	}
	return "./" + strings.Join(segments, "/")
}

// statusError is a status that is not an answer.
type statusError struct {
	key    string
	status int
}

func (e *statusError) Error() string { return fmt.Sprintf("httpstore: %q: status %d", e.key, e.status) }

// send makes one request. It tells the breaker what came of it unless it returns a response: that is up to its caller.
// Its errors have no URL in them, for those that redirects lead to may be secret. Statuses of absence are
// [store.ErrNotFound]; other than 200, 206, 304 and 416 do not come back.
func (s *Store) send(ctx context.Context, u *url.URL, header http.Header, probe bool) (*http.Response, error) {
	r, err := s.request(ctx, u, header)
	if err != nil {
		s.breaker.leave(probe, unknown, 0, nil)
		return nil, err
	}
	resp, err := s.client.Do(r)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		err = fmt.Errorf("httpstore: %s: %w", s, err)
		s.breaker.leave(probe, judge(ctx), 0, err)
		return nil, err
	}
	status := &statusError{u.Path[:min(len(u.Path), 300)], resp.StatusCode}
	switch code := resp.StatusCode; {
	case code == http.StatusOK, code == http.StatusPartialContent, code == http.StatusNotModified,
		code == http.StatusRequestedRangeNotSatisfiable:
		return resp, nil
	case code == http.StatusNotFound, code == http.StatusGone, code == http.StatusForbidden:
		s.breaker.leave(probe, healthy, 0, nil)
		err = fmt.Errorf("%w: %w", status, store.ErrNotFound)
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusUnauthorized,
		code == http.StatusProxyAuthRequired, code == http.StatusRequestTimeout:
		s.breaker.leave(probe, failing, retryAfter(resp), status)
		err = status
	default:
		s.breaker.leave(probe, healthy, 0, nil)
		err = status
	}
	// A short body read to its end leaves the connection usable.
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	return nil, errors.Join(err, resp.Body.Close())
}

// judge tells a caller who left from a cache that failed. A budget that ran out is the cache's failure.
func judge(ctx context.Context) outcome {
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return unknown
	}
	return failing
}

// retryAfter is how long the cache asks to be left alone, 0 if it does not. Only seconds are read.
func retryAfter(resp *http.Response) time.Duration {
	n, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, 86400)) * time.Second
}

func (s *Store) request(ctx context.Context, u *url.URL, header http.Header) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("httpstore: %w", err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("Accept-Encoding", "identity")
	if s.opts.Authorization == nil {
		return r, nil
	}
	login, err := s.opts.Authorization(ctx)
	if err != nil {
		return nil, fmt.Errorf("httpstore: credentials for %s: %w", s, err)
	}
	if login != "" {
		r.Header.Set("Authorization", login)
	}
	return r, nil
}

// answer is a small file of the cache.
type answer struct {
	body           []byte
	etag, modified string
	unchanged      bool // it is what the condition said; there is no body
}

// fetch reads a small file within the budget of a look-up.
func (s *Store) fetch(ctx context.Context, ref string, header http.Header, limit int64) (answer, error) {
	if store.IsLocalOnly(ctx) {
		return answer{}, notFound(ref)
	}
	u, err := s.resolve(ref)
	if err != nil {
		return answer{}, err
	}
	probe, err := s.breaker.enter()
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", s, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.LookupBudget)
	defer cancel()
	resp, err := s.send(ctx, u, header, probe)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := readText(resp, limit)
	if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrUnsupported) {
		s.breaker.leave(probe, judge(ctx), 0, err)
		return answer{}, fmt.Errorf("httpstore: %s: %q: %w", s, ref, err)
	}
	s.breaker.leave(probe, healthy, 0, nil)
	if err != nil {
		return answer{}, fmt.Errorf("httpstore: %s: %q: %w", s, ref, err)
	}
	if resp.StatusCode == http.StatusNotModified && header != nil {
		return answer{unchanged: true}, nil
	}
	if resp.StatusCode != http.StatusOK {
		return answer{}, &statusError{ref, resp.StatusCode}
	}
	return answer{body: body, etag: resp.Header.Get("Etag"), modified: resp.Header.Get("Last-Modified")}, nil
}

// readText reads a body of at most limit bytes, decoded.
func readText(resp *http.Response, limit int64) ([]byte, error) {
	var r io.Reader = resp.Body
	if c := contentEncoding(resp.Header); c != "none" && resp.StatusCode == http.StatusOK {
		d, err := narfile.NewDecoder(c, r)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		r = d
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %d bytes: %w", limit, store.ErrCorrupt)
	}
	return b, nil
}

// contentEncoding names the encoding as a narinfo would name it.
func contentEncoding(h http.Header) string {
	switch c := strings.ToLower(strings.TrimSpace(h.Get("Content-Encoding"))); c {
	case "", "identity", "none":
		return "none"
	case "x-gzip":
		return "gzip"
	default:
		return c
	}
}
