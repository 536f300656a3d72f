package httpcache

import (
	"context"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Artefacts makes Zstandard-compressed archives of paths, and may keep them: see package store/artefact.
// It is safe for concurrent use.
type Artefacts interface {
	// Encoder names what makes the archives: 1 to 16 lower-case letters and digits.
	// The bytes of a NAR's archive depend on it and on nothing else.
	Encoder() string

	// Describe reports whether the archive of info's NAR is to be offered. If so it sets info.FileHash and FileSize,
	// or clears them if they are not known yet. It does not wait.
	Describe(info *narinfo.Info) bool

	// Open opens the archive of a path in s, offered or not, and has it made if need be.
	// Its Size is -1 while it is being made: then reads wait for bytes, and Seek works, waiting for the end where it
	// is relative to that; or Seek always fails, and no range can be had.
	// Only a bare io.EOF, from Read, says that the archive is whole. An error of s is returned as it is.
	Open(ctx context.Context, s store.Store, info *narinfo.Info) (*store.File, error)
}

const artefactExt = "zst"

func validEncoder(s string) bool {
	return s != "" && len(s) <= 16 && strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}

// isArtefactBase reports whether a NAR's name is "HASH-NARHASH-ENCODER".
func isArtefactBase(base string) bool {
	const encoder = hashPartLen + 1 + narHashLen + 1
	return len(base) > encoder && base[hashPartLen] == '-' && base[encoder-1] == '-' && validEncoder(base[encoder:])
}

// offerArtefact makes info name the path's artefact, if there is to be one.
func (h *Handler) offerArtefact(info *narinfo.Info) bool {
	if h.opts.Artefacts == nil || h.keepsArchive(info) || !h.opts.Artefacts.Describe(info) {
		return false
	}
	info.URL, info.Compression = "nar/"+h.artefactName(info), "zstd"
	return true
}

func (h *Handler) artefactName(info *narinfo.Info) string {
	return string(info.StorePath.HashPart()) + "-" + info.NarHash.Base32() + "-" + h.opts.Artefacts.Encoder() +
		".nar." + artefactExt
}

// currentURL is where what was asked for is now, relative to the request's URL. It may be elsewhere again later.
type currentURL string

func (u currentURL) Error() string { return "is at " + string(u) }

// artefact answers with a path's compressed archive. Clients remember URLs for longer than encoders live.
func (h *Handler) artefact(info *narinfo.Info, encoder string) (*content, error) {
	if h.opts.Artefacts == nil || h.archiveExt(info) != "" {
		return nil, notFound("no artefact of %q", info.StorePath)
	}
	if encoder != h.opts.Artefacts.Encoder() {
		return nil, currentURL(h.artefactName(info))
	}
	c := &content{mime: mimeNAR, cache: cacheForever, size: -1, ranges: true}
	switch known := info.Clone(); {
	case !h.opts.Artefacts.Describe(known):
		c.ranges = false
	case !known.FileHash.IsZero():
		c.size, c.etag = known.FileSize, strconv.Quote(known.FileHash.Base32())
	}
	c.made = func(ctx context.Context) (*store.File, error) { return h.opts.Artefacts.Open(ctx, h.store, info) }
	return c, nil
}

// serveArtefact answers a GET of an archive that may still be growing.
func (a *answer) serveArtefact(c *content) error {
	f, err := c.made(a.r.Context())
	if err != nil {
		return err
	}
	c.opened = f
	part, result := span{0, -1}, rangeWhole
	if f.Size < 0 {
		if part, result, err = growingRange(a.r, f); err != nil {
			return err
		}
	}
	if f.Size >= 0 {
		whole := fileContent(f, c.mime, c.cache)
		whole.etag = c.etag
		if !f.Hash.IsZero() {
			whole.etag = strconv.Quote(f.Hash.Base32())
		}
		c.opened = nil // whole closes it
		return a.serveContent(whole)
	}
	_, err = f.Seek(part.offset, io.SeekStart)
	if err != nil && result == rangePart {
		return err
	}
	open := func(context.Context, span) (io.ReadCloser, error) {
		if result == rangePart {
			return limitedFile{io.LimitReader(f, part.length), f}, nil
		}
		return f, nil
	}
	body := &content{mime: c.mime, cache: c.cache, size: -1, ranges: err == nil, open: open}
	return a.serveBody(body, part, result == rangePart)
}

type limitedFile struct {
	io.Reader
	io.Closer
}

// growingRange decides what part of a growing archive a request is for, and waits until that part is there.
// A range that depends on the archive's size has to wait for the end: then f.Size is set.
func growingRange(r *http.Request, f *store.File) (span, rangeResult, error) {
	whole := span{0, -1}
	if _, err := f.Seek(0, io.SeekCurrent); err != nil {
		return whole, rangeWhole, nil
	}
	part, result := requestedRange(r, math.MaxInt64, "")
	if result == rangeWhole {
		return whole, result, nil
	}
	end := part.offset + part.length
	if result == rangePart && end < math.MaxInt64 {
		if _, err := f.Seek(end-1, io.SeekStart); err != nil {
			return whole, result, err
		}
		_, err := io.ReadFull(f, make([]byte, 1))
		if err != io.EOF {
			return part, result, err
		}
	}
	size, err := f.Seek(0, io.SeekEnd)
	f.Size = size
	return whole, rangeWhole, err
}
