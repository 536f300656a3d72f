package upload

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/internal/pause"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// ErrDenied reports that the server wants a credential, or another one.
var ErrDenied = errors.New("upload: the server denies it")

// StatusError is an answer that means failure.
type StatusError struct {
	Method, Path string // Path is relative to the cache's URL
	Status       int
	Detail       string // the beginning of the answer's text, "" for none
}

// Error implements error.
func (e *StatusError) Error() string {
	text := fmt.Sprintf("upload: %s %s: %d %s", e.Method, e.Path, e.Status, http.StatusText(e.Status))
	if e.Detail != "" {
		text += fmt.Sprintf(" (%q)", e.Detail)
	}
	return text
}

// Is makes a denial [ErrDenied]. A narinfo that comes after its archive is refused for what it says, not for who sends
// it.
func (e *StatusError) Is(target error) bool {
	forbidden := e.Status == http.StatusForbidden && !strings.HasSuffix(e.Path, ".narinfo")
	return target == ErrDenied &&
		(e.Status == http.StatusUnauthorized || e.Status == http.StatusProxyAuthRequired || forbidden)
}

var errStalled = errors.New("upload: the server takes no byte and answers nothing for too long")

// request is what is asked of the server, as often as need be.
type request struct {
	method, path string
	about        narinfo.StorePath // for the trace
	header       http.Header
	size         int64
	body         func(ctx context.Context) (io.ReadCloser, error) // nil: none
	keep         int64                                            // most bytes of the answer to keep
}

// answer is a status that no retry would change, with the beginning of the body.
type answer struct {
	status int
	body   []byte
}

// maxDetail is how much of an answer's text an error has.
const maxDetail = 500

// do makes a request, again while that may help. The error is of the network, of the body, or of ctx.
func (c *Client) do(ctx context.Context, r *request) (*answer, error) {
	backoff := c.opts.MinBackoff
	for attempt := 1; ; attempt++ {
		a, after, err := c.once(ctx, r)
		if err == nil || ctx.Err() != nil || attempt == c.opts.Attempts || permanent(err) {
			return a, err
		}
		wait := min(max(backoff+rand.N(backoff), after), max(c.opts.MaxBackoff, after))
		if retry := c.opts.Trace.Retry; retry != nil {
			retry(r.about, err, wait)
		}
		if err := pause.For(ctx, wait); err != nil {
			return nil, err
		}
		backoff = min(2*backoff, c.opts.MaxBackoff)
	}
}

// bodyError is a failure to read what was to be sent.
type bodyError struct{ error }

func (e bodyError) Unwrap() error { return e.error }

// permanent reports an error that the next attempt would meet again.
func permanent(err error) bool {
	_, body := errors.AsType[bodyError](err)
	_, distrusted := errors.AsType[*tls.CertificateVerificationError](err)
	return body || distrusted || errors.Is(err, http.ErrSchemeMismatch)
}

// once makes a request once. after is for how long the server asks to be left alone.
func (c *Client) once(parent context.Context, r *request) (a *answer, after time.Duration, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	stall := time.AfterFunc(c.opts.StallTimeout, func() { cancel(errStalled) })
	defer stall.Stop()
	out, body, err := c.build(ctx, r, func(int) { stall.Reset(c.opts.StallTimeout) })
	if err != nil {
		return nil, 0, err
	}
	resp, err := c.client.Do(out)
	if err != nil {
		switch {
		case body != nil && body.failure() != nil:
			err = bodyError{body.failure()}
		case errors.Is(context.Cause(ctx), errStalled) && parent.Err() == nil:
			err = errStalled
		}
		return nil, 0, fmt.Errorf("upload: %s %s: %w", r.method, r.path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	stall.Reset(c.opts.StallTimeout)
	text, err := io.ReadAll(io.LimitReader(resp.Body, max(r.keep, maxDetail)+1))
	if err != nil {
		return nil, 0, fmt.Errorf("upload: %s %s: %w", r.method, r.path, err)
	}
	if retryable(resp.StatusCode) {
		return nil, retryAfter(resp.Header), r.failed(&answer{resp.StatusCode, text})
	}
	return &answer{resp.StatusCode, text}, 0, nil
}

// build makes what is sent. Its body tells moved of the bytes that it has let go.
func (c *Client) build(ctx context.Context, r *request, moved func(n int)) (*http.Request, *sentBody, error) {
	out, err := http.NewRequestWithContext(ctx, r.method, c.base.JoinPath(r.path).String(), http.NoBody)
	if err != nil {
		return nil, nil, fmt.Errorf("upload: %w", err)
	}
	for name, values := range r.header {
		out.Header[name] = values
	}
	out.Header.Set("User-Agent", "nixtrap")
	if c.opts.Authorization != nil {
		value, err := c.opts.Authorization(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("upload: credential: %w", err)
		}
		if value != "" {
			out.Header.Set("Authorization", value)
		}
	}
	if r.body == nil {
		return out, nil, nil
	}
	content, err := r.body(ctx)
	if err != nil {
		return nil, nil, bodyError{err}
	}
	body := &sentBody{r: content, moved: moved}
	out.Body, out.ContentLength = body, r.size
	return out, body, nil
}

// failed is the error of an answer that is not what was hoped for.
func (r *request) failed(a *answer) error {
	detail := strings.ToValidUTF8(strings.TrimSpace(string(a.body[:min(len(a.body), maxDetail)])), "\uFFFD")
	return &StatusError{Method: r.method, Path: r.path, Status: a.status, Detail: detail}
}

func retryable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// maxRetryAfter is the longest time that a server may ask to be left alone.
const maxRetryAfter = 5 * time.Minute

func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil && seconds > 0 {
		return min(time.Duration(min(seconds, 1<<20))*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(time.Until(at), 0), maxRetryAfter)
	}
	return 0
}
