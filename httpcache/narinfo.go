package httpcache

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
)

const (
	mimeText    = "text/plain; charset=utf-8"
	mimeJSON    = "application/json"
	mimeNarinfo = "text/x-nix-narinfo"
)

func (h *Handler) cacheInfoText() ([]byte, error) {
	info := narinfo.CacheInfo{StoreDir: h.store.StoreDir(), WantMassQuery: !h.opts.NoMassQuery,
		Priority: h.opts.Priority}
	return info.MarshalText()
}

// narinfoForm signs a narinfo and writes it down.
type narinfoForm func(*narinfo.Info) (*content, error)

// narinfo answers with a path's metadata in the given form.
func (h *Handler) narinfo(ctx context.Context, hash string, form narinfoForm) (*content, error) {
	info, err := h.lookUp(ctx, hash)
	if err != nil {
		return nil, err
	}
	h.describe(info)
	return form(info)
}

// describe makes info name the archive as this handler serves it: see the decision record on NAR URLs.
// It drops signatures that are none, for Nix 2.34 refuses a whole narinfo because of one.
func (h *Handler) describe(info *narinfo.Info) {
	info.Signatures = slices.DeleteFunc(info.Signatures, func(s signing.Signature) bool { return !s.WellFormed() })
	if !h.offerArtefact(info) {
		h.nameArchive(info)
	}
}

// nameArchive names the archive as the store has it.
func (h *Handler) nameArchive(info *narinfo.Info) {
	url := "nar/" + string(info.StorePath.HashPart()) + "-" + info.NarHash.Base32() + ".nar"
	if ext := h.archiveExt(info); ext != "" {
		info.URL, info.Compression = url+"."+ext, compressionOf(info)
		return
	}
	info.URL, info.Compression = url, "none"
	info.FileHash, info.FileSize = info.NarHash, info.NarSize
}

// archiveExt returns the suffix under which the store's own compressed archive is served, "" if it has none.
func (h *Handler) archiveExt(info *narinfo.Info) string {
	if !h.keepsArchive(info) {
		return ""
	}
	return archiveExts[compressionOf(info)]
}

// keepsArchive reports whether the store has an archive of its own, which may be one without compression.
func (h *Handler) keepsArchive(info *narinfo.Info) bool {
	_, ok := h.store.(store.ArchiveOpener)
	return ok && info.URL != ""
}

// compressionOf is info's Compression as Nix reads it.
func compressionOf(info *narinfo.Info) string {
	if info.Compression == "" {
		return "bzip2"
	}
	return info.Compression
}

// archiveExts are the file name suffixes that Nix gives its compressions.
// An archive compressed in a way that is not here is served decoded.
var archiveExts = map[string]string{
	"xz": "xz", "bzip2": "bz2", "gzip": "gz", "zstd": "zst", "lzip": "lzip", "lz4": "lz4", "br": "br",
}

// narinfoDocument is the JSON form of a narinfo: the fields and spellings of "nix path-info --json" in version 1 of
// that format, with the path beside them.
type narinfoDocument struct {
	Path         narinfo.StorePath      `json:"path"`
	URL          string                 `json:"url"`
	Compression  string                 `json:"compression"`
	DownloadHash string                 `json:"downloadHash,omitempty"`
	DownloadSize int64                  `json:"downloadSize,omitempty"`
	NarHash      string                 `json:"narHash"`
	NarSize      int64                  `json:"narSize"`
	References   []narinfo.StorePath    `json:"references"`
	Deriver      narinfo.StorePath      `json:"deriver,omitempty"`
	Signatures   []signing.Signature    `json:"signatures"`
	CA           narinfo.ContentAddress `json:"ca,omitempty"`
}

func (h *Handler) narinfoJSON(info *narinfo.Info) (*content, error) {
	h.narinfos.sign(info)
	d := narinfoDocument{Path: info.StorePath, URL: info.URL, Compression: info.Compression,
		NarHash: info.NarHash.SRI(), NarSize: info.NarSize, DownloadSize: info.FileSize,
		References: append([]narinfo.StorePath{}, info.References...), Deriver: info.Deriver,
		Signatures: append([]signing.Signature{}, info.Signatures...), CA: info.CA}
	if !info.FileHash.IsZero() {
		d.DownloadHash = info.FileHash.SRI()
	}
	return document(cacheAnHour, d)
}

// document answers with a value as JSON.
func document(cache string, value any) (*content, error) {
	b, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("httpcache: %w", err)
	}
	return text(mimeJSON, cache, append(b, '\n')), nil
}

// listing answers with an archive's table of contents.
func (h *Handler) listing(ctx context.Context, hash string) (*content, error) {
	info, err := h.lookUp(ctx, hash)
	if err != nil {
		return nil, err
	}
	layout, err := store.Layout(ctx, h.store, info)
	if err != nil {
		return nil, err
	}
	b, err := layout.AppendListing(nil)
	if err != nil {
		return nil, err
	}
	return text(mimeJSON, cacheAnHour, b), nil
}
