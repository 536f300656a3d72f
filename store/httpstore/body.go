package httpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/internal/narfile"
	"github.com/voidnxlab/nixtrap/internal/pause"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

var errStalled = errors.New("no byte for too long")

// body reads a file of the cache from its beginning, and takes it up again where it is cut.
// It is not safe for concurrent use.
type body struct {
	ctx     context.Context // of the call that opened it, for which reading is a part of opening
	store   *Store
	url     *url.URL
	limit   int64 // the most bytes that it may have
	size    int64 // -1: the cache does not say
	etag    string
	offset  int64
	resumes int // that are left
	err     error

	modified time.Time
	encoding string // "none" for most

	// Of the present request:
	resp   *http.Response
	during context.Context
	cancel context.CancelCauseFunc
	stall  *time.Timer // runs while something is waited for
	late   error       // came with bytes
}

// archiveLimit is the most bytes that a path's archive may have.
func archiveLimit(info *narinfo.Info) int64 {
	if info.FileSize > 0 {
		return info.FileSize
	}
	slack := info.NarSize/4 + 1<<20
	if info.NarSize > 1<<62 {
		return 1<<63 - 1
	}
	return info.NarSize + slack
}

// openBody opens the file at a URL.
func (s *Store) openBody(ctx context.Context, u *url.URL, limit int64) (*body, error) {
	probe, err := s.breaker.enter()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	b := &body{ctx: ctx, store: s, url: u, limit: limit, size: -1, resumes: max(s.opts.Resumes, 0)}
	if err := b.request(nil, probe); err != nil {
		return nil, err
	}
	if b.resp.StatusCode != http.StatusOK {
		b.drop()
		return nil, &statusError{u.Path, b.resp.StatusCode}
	}
	h := b.resp.Header
	b.encoding, b.size = contentEncoding(h), b.resp.ContentLength
	if b.encoding != "none" {
		b.limit += b.limit/8 + 64<<10 // what doesn't compress grows
	}
	if etag := h.Get("Etag"); strings.HasPrefix(etag, `"`) && h.Get("Accept-Ranges") == "bytes" && b.encoding == "none" {
		b.etag = etag
	}
	if t, err := http.ParseTime(h.Get("Last-Modified")); err == nil {
		b.modified = t
	}
	return b, nil
}

// request sends a request and waits for the header of its response.
func (b *body) request(header http.Header, probe bool) error {
	ctx, cancel := context.WithCancelCause(b.ctx)
	b.during, b.cancel = ctx, cancel
	b.stall = time.AfterFunc(b.store.opts.StallTimeout, func() { cancel(errStalled) })
	resp, err := b.store.send(ctx, b.url, header, probe) //nolint:bodyclose // drop closes it
	b.stall.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), errStalled) {
			err = fmt.Errorf("httpstore: %s: %w", b.store, errStalled)
		}
		cancel(nil)
		return err
	}
	b.store.breaker.leave(probe, healthy, 0, nil)
	b.resp, b.late = resp, nil
	return nil
}

// drop ends the present request.
func (b *body) drop() {
	b.stall.Stop()
	b.cancel(nil)
	_ = b.resp.Body.Close()
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.err == nil && len(p) == 0 {
		return 0, nil
	}
	for b.err == nil {
		n, err := b.readOnce(p)
		if b.offset += int64(n); b.offset > b.limit {
			b.err = fmt.Errorf("httpstore: %q is longer than %d bytes: %w", b.url.Path, b.limit, store.ErrCorrupt)
			return 0, b.err
		}
		if n > 0 {
			b.late = err
			return n, nil
		}
		switch {
		case err == nil:
		case err == io.EOF && (b.size < 0 || b.offset == b.size): //nolint:errorlint // a wrapped one is a failure
			b.err = io.EOF
		default:
			b.err = b.resume(err)
		}
	}
	return 0, b.err
}

func (b *body) readOnce(p []byte) (int, error) {
	if err := b.late; err != nil {
		return 0, err
	}
	b.stall.Reset(b.store.opts.StallTimeout)
	n, err := b.resp.Body.Read(p)
	b.stall.Stop()
	if err != nil && err != io.EOF && errors.Is(context.Cause(b.during), errStalled) {
		err = errStalled
	}
	return n, err
}

// resume takes the file up again after it was cut by cause, or returns why not.
func (b *body) resume(cause error) error {
	b.drop()
	if errors.Is(cause, io.EOF) {
		cause = io.ErrUnexpectedEOF
	}
	cause = fmt.Errorf("httpstore: %s: %q cut after %d bytes: %w", b.store, b.url.Path, b.offset, cause)
	for wait := 50 * time.Millisecond; b.etag != "" && b.resumes > 0; wait *= 3 {
		b.resumes--
		if resumed := b.store.opts.Trace.Resumed; resumed != nil {
			resumed()
		}
		if err := pause.For(b.ctx, wait/2+rand.N(wait)); err != nil {
			return err
		}
		err := b.request(http.Header{
			"Range": {"bytes=" + strconv.FormatInt(b.offset, 10) + "-"}, "If-Range": {b.etag},
		}, false)
		if err == nil {
			return b.checkResumed(cause)
		}
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%w, and then gone", cause)
		}
	}
	if err := b.ctx.Err(); err != nil {
		return err
	}
	return cause
}

// checkResumed sees whether the response goes on with the same file.
func (b *body) checkResumed(cause error) error {
	h := b.resp.Header
	want := "bytes " + strconv.FormatInt(b.offset, 10) + "-"
	got := h.Get("Content-Range")
	total := got[strings.LastIndexByte(got, '/')+1:]
	same := b.resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(got, want) &&
		(h.Get("Etag") == "" || h.Get("Etag") == b.etag) && contentEncoding(h) == "none" &&
		(b.size < 0 || total == "*" || total == strconv.FormatInt(b.size, 10))
	if same {
		return nil
	}
	b.drop()
	return fmt.Errorf("%w, and then another", cause)
}

// Close implements io.Closer. A second Close does nothing.
func (b *body) Close() error {
	if errors.Is(b.err, os.ErrClosed) {
		return nil
	}
	b.err = os.ErrClosed
	b.drop()
	return nil
}

// decoded is the file without what the transfer has wrapped it in.
func (b *body) decoded() (io.ReadCloser, error) {
	if b.encoding == "none" {
		return b, nil
	}
	d, err := narfile.NewDecoder(b.encoding, b)
	if err != nil {
		return nil, fmt.Errorf("httpstore: %q with content encoding %q: %w", b.url.Path, b.encoding, err)
	}
	b.size = -1
	return decodedBody{d, b}, nil
}

type decodedBody struct {
	io.ReadCloser
	body *body
}

func (d decodedBody) Close() error { return errors.Join(d.ReadCloser.Close(), d.body.Close()) }
