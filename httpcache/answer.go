package httpcache

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/store"
)

// answer is one request on its way to its answer.
type answer struct {
	h       *Handler
	w       http.ResponseWriter
	r       *http.Request
	body    bodyWriter
	kind    Kind
	start   time.Time
	status  int
	aborted bool

	identity *Identity // who asks; nil: nobody in particular
}

func (a *answer) serve() {
	a.body = newBodyWriter(a.w, a.h.opts.WriteStall)
	kind, resolve := a.h.route(a.r)
	a.kind = kind
	if err := a.perform(resolve); err != nil {
		a.fail(err)
	}
}

// perform does what the method says. Its errors come before the status line.
func (a *answer) perform(resolve resolver) error {
	switch method := a.r.Method; {
	case method == http.MethodGet || method == http.MethodHead:
		return a.read(resolve)
	case method == http.MethodPut && a.h.opts.Receiver != nil:
		return a.put()
	case method == http.MethodDelete && a.h.opts.Deleter != nil:
		return a.remove()
	case method == http.MethodPost && a.finder() != nil:
		return a.missing(a.finder())
	}
	a.w.Header().Set("Allow", strings.Join(a.methods(), ", "))
	sentence := "method not allowed"
	if a.r.Method == http.MethodPut && a.h.opts.NoUploads != "" {
		sentence = a.h.opts.NoUploads
	}
	a.sentence(http.StatusMethodNotAllowed, sentence)
	return nil
}

// methods are those that some request for this URL may have.
func (a *answer) methods() []string {
	if a.finder() != nil {
		return []string{http.MethodPost}
	}
	all := []string{http.MethodGet, http.MethodHead}
	if a.h.opts.Receiver != nil {
		all = append(all, http.MethodPut)
	}
	if a.h.opts.Deleter != nil {
		all = append(all, http.MethodDelete)
	}
	return all
}

// read answers GET and HEAD.
func (a *answer) read(resolve resolver) error {
	if err := a.admit(); err != nil {
		return err
	}
	if a.mayPush() {
		if answered, err := a.holds(); err != nil || answered {
			return err
		}
		if a.h.pushers != nil {
			_, resolve = a.h.pushers.route(a.r)
		}
	}
	ctx := a.r.Context()
	if a.r.Method == http.MethodHead && (a.kind == KindListing || a.kind == KindServe) {
		ctx = store.LocalOnly(ctx) // what is in an archive is known only when it is here, and a HEAD fetches none
	}
	c, err := resolve(ctx)
	if err != nil {
		return err
	}
	if a.h.opts.Private && c.cache != cacheNever {
		c.cache = cachePrivate
	}
	return a.serveContent(c)
}

// fail answers an error that came before the status line.
func (a *answer) fail(err error) {
	var moved redirect
	if errors.As(err, &moved) {
		a.w.Header().Set("Location", string(moved))
		a.sentence(http.StatusMovedPermanently, "moved")
		return
	}
	if current, ok := errors.AsType[currentURL](err); ok {
		a.w.Header().Set("Location", string(current))
		a.sentence(http.StatusTemporaryRedirect, "moved")
		return
	}
	if a.r.Context().Err() != nil {
		a.abort(err)
	}
	status, sentence := statusOf(err)
	switch status {
	case http.StatusUnauthorized:
		a.w.Header().Set("WWW-Authenticate", `Basic realm="nix cache"`)
	case http.StatusServiceUnavailable:
		a.w.Header().Set("Retry-After", "5")
	}
	a.logFailure(status, err)
	a.sentence(status, sentence)
}

// redirect is a place to look instead, relative to the request's URL.
type redirect string

func (r redirect) Error() string { return "moved to " + string(r) }

func (a *answer) logFailure(status int, err error) {
	level := slog.LevelDebug
	_, refused := errors.AsType[*store.RefusedError](err) // nobody's fault, or the sender's
	if status >= http.StatusInternalServerError && !refused || isCorrupt(err) {
		level = slog.LevelError
	}
	a.h.log.LogAttrs(a.r.Context(), level, "request failed", a.attrs(err)...)
}

func (a *answer) attrs(err error) []slog.Attr {
	return []slog.Attr{slog.String("kind", a.kind.String()), slog.String("method", a.r.Method),
		slog.String("path", a.r.URL.Path), slog.String("remote", a.r.RemoteAddr), slog.Any("err", err)}
}

// sentence answers with one fixed line and without a way to cache it.
func (a *answer) sentence(status int, line string) {
	h := a.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", cacheNever)
	h.Set("Content-Length", strconv.Itoa(len(line)+1))
	a.writeHead(status)
	if a.r.Method != http.MethodHead {
		if _, err := a.body.Write([]byte(line + "\n")); err != nil {
			a.abort(err)
		}
	}
	_ = a.finish()
}

func (a *answer) writeHead(status int) {
	a.status = status
	a.body.extend()
	a.w.WriteHeader(status)
}

// finish sends what is still buffered. Its error is always nil: after the status line there is nobody to tell.
func (a *answer) finish() error {
	if err := a.body.end(); err != nil {
		a.abort(err)
	}
	return nil
}

// abort cuts the connection or stream, so that the client cannot take what it got for a whole answer.
func (a *answer) abort(err error) {
	a.aborted = true
	level := slog.LevelError
	if a.clientGone(err) {
		level = slog.LevelDebug
	}
	attrs := append(a.attrs(err), slog.Int("status", a.status), slog.Int64("written", a.body.written))
	a.h.log.LogAttrs(a.r.Context(), level, "answer aborted", attrs...)
	panic(http.ErrAbortHandler)
}

// clientGone tells a client that left or stalled from a fault of ours.
func (a *answer) clientGone(err error) bool {
	if isCorrupt(err) {
		return false
	}
	return a.body.failed != nil || a.r.Context().Err() != nil
}

func (a *answer) done() {
	if a.h.opts.Trace == nil || a.h.opts.Trace.Done == nil {
		return
	}
	d := Done{Kind: a.kind, Method: a.r.Method, Status: a.status, Bytes: a.body.written,
		Duration: time.Since(a.start), Aborted: a.aborted}
	if d.Method != http.MethodGet && d.Method != http.MethodHead {
		d.Method = "other"
	}
	a.h.opts.Trace.Done(context.WithoutCancel(a.r.Context()), d)
}
