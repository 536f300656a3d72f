package httpcache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/voidnxlab/nixtrap/store"
)

// Values of Cache-Control.
const (
	cacheForever = "public, max-age=31536000, immutable" // bytes whose hash is in their URL
	cacheAnHour  = "public, max-age=3600"                // metadata: a path may be deleted or rebuilt
	cachePrivate = "private, max-age=3600"               // what only some may read
	cacheNever   = "no-store"                            // absence, faults and states
)

// content is an answer that has been decided on, its body not yet opened.
type content struct {
	mime  string
	cache string // Cache-Control
	etag  string // strong, with its quotes; "": none
	size  int64  // of the whole body; -1: unknown
	csp   string // Content-Security-Policy; "": none

	ranges bool // are answered though the size is unknown

	// Exactly one of these gives the body.
	body []byte
	open func(ctx context.Context, s span) (io.ReadCloser, error) // s is the whole body if size is -1
	file func(ctx context.Context) (*store.File, error)
	made func(ctx context.Context) (*store.File, error) // may be growing: see serveArtefact

	opened io.Closer // nil until there is something to close
}

// text makes a body out of bytes at hand, with an ETag of its own hash.
func text(mime, cache string, body []byte) *content {
	sum := sha256.Sum256(body)
	return &content{mime: mime, cache: cache, etag: strconv.Quote(hex.EncodeToString(sum[:16])),
		size: int64(len(body)), body: body}
}

// reader opens a body that is not at hand, or the part of it that s says. What it opens is closed by close.
func (c *content) reader(ctx context.Context, h *Handler, s span) (io.Reader, error) {
	switch {
	case c.open != nil:
		rc, err := c.open(ctx, s)
		if err != nil {
			return nil, err
		}
		c.opened = rc
		return rc, nil
	default:
		f, err := c.file(ctx)
		if err != nil {
			return nil, err
		}
		c.opened = f
		if f.Size != c.size {
			return nil, fmt.Errorf("httpcache: a file of %d bytes has %d: %w", c.size, f.Size, store.ErrCorrupt)
		}
		if f.Source != nil {
			r := h.newSourceReader(f, s)
			c.opened = r
			return r, nil
		}
		_, err = f.Seek(s.offset, io.SeekStart)
		return &io.LimitedReader{R: f.ReadSeekCloser, N: s.length}, err
	}
}

func (c *content) close() {
	if c.opened != nil {
		_ = c.opened.Close()
	}
}

func (c *content) setHeader(h http.Header) {
	h.Set("Content-Type", c.mime)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", c.cache)
	if c.etag != "" {
		h.Set("Etag", c.etag)
	}
	if c.csp != "" {
		h.Set("Content-Security-Policy", c.csp)
	}
	if c.size >= 0 || c.ranges {
		h.Set("Accept-Ranges", "bytes")
	}
}

// firstBlock is how much of a body is read before its status line is written.
// A body that fits into it is known to be whole by then.
const firstBlock = 32 << 10

// serveContent is the one door for bodies: conditions, ranges, HEAD, and an abort where a body cannot be ended.
// An error is returned only while nothing has been written.
func (a *answer) serveContent(c *content) error {
	defer c.close()
	if c.made != nil && a.r.Method != http.MethodHead && !noneMatch(a.r, c.etag) {
		return a.serveArtefact(c)
	}
	header := a.w.Header()
	if noneMatch(a.r, c.etag) {
		header.Set("Etag", c.etag)
		header.Set("Cache-Control", c.cache)
		a.writeHead(http.StatusNotModified)
		return a.finish()
	}
	part, result := requestedRange(a.r, c.size, c.etag)
	switch {
	case result == rangeUnsatisfiable:
		header.Set("Content-Range", fmt.Sprintf("bytes */%d", c.size))
		a.sentence(http.StatusRequestedRangeNotSatisfiable, "range not satisfiable")
		return nil
	case a.r.Method == http.MethodHead:
		c.setHeader(header)
		a.setLength(c.size)
		a.writeHead(http.StatusOK)
		return a.finish()
	}
	return a.serveBody(c, part, result == rangePart)
}

func (a *answer) serveBody(c *content, part span, partial bool) error {
	if c.body != nil {
		a.begin(c, part, partial)
		if _, err := a.body.Write(c.body[part.offset:][:part.length]); err != nil {
			a.abort(err)
		}
		return a.finish()
	}
	r, err := c.reader(a.r.Context(), a.h, part)
	if err != nil {
		return err
	}
	if p, ok := r.(prefetcher); ok {
		if err := p.Prefetch(); err != nil {
			return err
		}
		a.begin(c, part, partial)
		n, err := p.WriteTo(&a.body)
		a.endBody(part.length, n, err)
		return a.finish()
	}
	return a.serveRead(c, r, part, partial)
}

// prefetcher is a body that reads its beginning by itself before the status line is written, and then writes itself.
type prefetcher interface {
	// Prefetch fails where the body can't begin. One that ends where it has read to is proved then.
	Prefetch() error
	io.WriterTo
}

// serveRead serves a body that must be read to see whether there is one.
func (a *answer) serveRead(c *content, r io.Reader, part span, partial bool) error {
	buf := a.h.buffers.Get().(*[firstBlock]byte)
	defer a.h.buffers.Put(buf)
	n, ended, err := readFirst(r, buf[:])
	switch {
	case err != nil:
		return err
	case ended && part.length >= 0 && int64(n) != part.length:
		return fmt.Errorf("httpcache: a body of %d bytes has %d: %w", part.length, n, store.ErrCorrupt)
	}
	a.begin(c, part, partial)
	if _, err := a.body.Write(buf[:n]); err != nil {
		a.abort(err)
	}
	if !ended {
		a.copyRest(r, buf, part.length-int64(n))
	}
	return a.finish()
}

// begin writes the status line and the header.
func (a *answer) begin(c *content, part span, partial bool) {
	c.setHeader(a.w.Header())
	a.setLength(part.length)
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		a.w.Header().Set("Content-Range", part.contentRange(c.size))
	}
	a.writeHead(status)
}

// readFirst fills buf as far as r goes. Only a bare io.EOF is r's end: one that is wrapped, or unexpected, is a failure
// of whatever r reads from.
func readFirst(r io.Reader, buf []byte) (n int, ended bool, err error) {
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err == io.EOF {
			return n, true, nil
		}
		if err != nil {
			return n, false, err
		}
	}
	return n, false, nil
}

// copyRest writes what follows the first block, to the reader's end, for only there has the store proved the bytes.
// rest is how many bytes that must be; negative: unknown.
func (a *answer) copyRest(r io.Reader, buf *[firstBlock]byte, rest int64) {
	n, err := copyBody(&a.body, r, buf[:])
	a.endBody(rest, n, err)
}

// endBody aborts unless n is what was to be written; negative: unknown.
func (a *answer) endBody(want, n int64, err error) {
	if err == nil && want >= 0 && n != want {
		err = fmt.Errorf("httpcache: %d bytes of a body have %d: %w", want, n, store.ErrCorrupt)
	}
	if err != nil {
		a.abort(err)
	}
}

// copyBody lets a source write itself if it can, and the kernel copy files.
func copyBody(w *bodyWriter, r io.Reader, buf []byte) (int64, error) {
	if _, ok := asFile(r); ok {
		return w.ReadFrom(r)
	}
	if from, ok := r.(io.WriterTo); ok {
		return from.WriteTo(w)
	}
	return io.CopyBuffer(onlyWriter{w}, r, buf)
}

func (a *answer) setLength(n int64) {
	if n >= 0 {
		a.w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	}
}
