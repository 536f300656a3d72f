package httpcache

import (
	"context"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

const mimeNAR = "application/x-nix-nar"

const (
	hashPartLen = 32
	narHashLen  = 52 // of a SHA-256 in base 32
)

// narName is what the name of a NAR says.
type narName struct {
	hash    string // of the store path
	narHash string // base 32; "" means whatever the path has now
	ext     string // of a compressed archive; "" means the NAR itself
	encoder string // of an artefact; "" means the store's own archive
}

// routeNAR reads the part of a NAR's URL after "nar/", in any of the shapes of the package comment.
func (h *Handler) routeNAR(file string, query url.Values) resolver {
	base, ext, ok := cutNAR(file)
	if !ok {
		return fails(notFound("no NAR's name"))
	}
	switch {
	case len(base) == hashPartLen && ext == "":
		return h.nar(narName{hash: base})
	case len(base) == hashPartLen+1+narHashLen && base[hashPartLen] == '-':
		return h.nar(narName{hash: base[:hashPartLen], narHash: base[hashPartLen+1:], ext: ext})
	case ext == artefactExt && isArtefactBase(base):
		return h.nar(narName{hash: base[:hashPartLen], narHash: base[hashPartLen+1:][:narHashLen], ext: ext,
			encoder: base[hashPartLen+1+narHashLen+1:]})
	case len(base) == narHashLen && query.Has("hash") && ext == "":
		return h.nar(narName{hash: query.Get("hash"), narHash: base})
	case len(base) == narHashLen:
		return func(ctx context.Context) (*content, error) { return h.storedNAR(ctx, file, base) }
	}
	return fails(errMalformedNAR)
}

// cutNAR takes "BASE.nar" and "BASE.nar.EXT" apart.
func cutNAR(file string) (base, ext string, ok bool) {
	base, ext, ok = strings.Cut(file, ".nar")
	if !ok || strings.Contains(file, "/") {
		return "", "", false
	}
	if ext == "" {
		return base, "", true
	}
	ext, ok = strings.CutPrefix(ext, ".")
	return base, ext, ok && ext != ""
}

// nar answers with a path's archive if its content is still what the name says.
func (h *Handler) nar(name narName) resolver {
	return func(ctx context.Context) (*content, error) {
		if name.narHash != "" {
			if _, err := narinfo.ParseHash("sha256:" + name.narHash); err != nil {
				return nil, errMalformedNAR
			}
		}
		info, err := h.lookUp(ctx, name.hash)
		if err != nil {
			return nil, err
		}
		cache := cacheForever
		switch current := info.NarHash.Base32(); name.narHash {
		case "":
			cache = cacheAnHour
		case current:
		default:
			return nil, notFound("%q has other content now", info.StorePath)
		}
		if name.encoder != "" {
			return h.artefact(info, name.encoder)
		}
		if name.ext != "" {
			return h.archive(ctx, info, name.ext)
		}
		return h.identity(info, cache), nil
	}
}

// identity is the NAR itself.
func (h *Handler) identity(info *narinfo.Info, cache string) *content {
	return &content{mime: mimeNAR, cache: cache, etag: strconv.Quote(info.NarHash.Base32()), size: info.NarSize,
		open: func(ctx context.Context, s span) (io.ReadCloser, error) {
			if s.length == info.NarSize {
				return h.store.Open(ctx, info)
			}
			return store.OpenRange(ctx, h.store, info, s.offset, s.length)
		}}
}

// archive is the store's own compressed file. Without a FileHash nothing vouches for its bytes staying as they are
// under their name, so it has no ETag then and a range of it no condition to stand on.
func (h *Handler) archive(ctx context.Context, info *narinfo.Info, ext string) (*content, error) {
	if ext != h.archiveExt(info) {
		var err error
		if info, err = h.otherArchive(ctx, info, ext); err != nil {
			return nil, err
		}
	}
	open := func(ctx context.Context) (*store.File, error) {
		return h.store.(store.ArchiveOpener).OpenArchive(ctx, info)
	}
	c := &content{mime: mimeNAR, cache: cacheForever, size: info.FileSize, file: open}
	if info.FileSize == 0 {
		// Only who opens it learns the size, or that nobody knows it yet. A HEAD must do without, for to open an archive
		// may be to fetch it.
		c = &content{mime: mimeNAR, cache: cacheForever, size: -1, ranges: true, made: open}
	}
	if !info.FileHash.IsZero() {
		c.etag = strconv.Quote(info.FileHash.Base32())
	}
	return c, nil
}

// archiveFinder is a store that may have a path more than once: see [store.Layered].
type archiveFinder interface {
	WithArchive(ctx context.Context, info *narinfo.Info, compression string) (*narinfo.Info, error)
}

// otherArchive finds an archive that is not the one that a narinfo would name now. Clients remember narinfos for a month,
// and meanwhile the path may have come to be in a store that is asked first.
func (h *Handler) otherArchive(ctx context.Context, info *narinfo.Info, ext string) (*narinfo.Info, error) {
	if f, ok := h.store.(archiveFinder); ok {
		for compression, e := range archiveExts {
			if e == ext {
				return f.WithArchive(ctx, info, compression)
			}
		}
	}
	return nil, notFound("%q is not kept as %q", info.StorePath, ext)
}

// storedNAR is a bucket's own file under its own name, which does not tell what path it belongs to:
// where a policy is set nobody could say whether it allows the file.
func (h *Handler) storedNAR(ctx context.Context, file, fileHash string) (*content, error) {
	if _, err := narinfo.ParseHash("sha256:" + fileHash); err != nil {
		return nil, errMalformedNAR
	}
	f, err := h.storedFile(ctx, "nar/"+file)
	if err != nil {
		return nil, err
	}
	c := fileContent(f, mimeNAR, cacheForever)
	c.etag = strconv.Quote(fileHash)
	return c, nil
}

// storedFile opens a file of a store that is itself a binary cache; never where a policy is set.
func (h *Handler) storedFile(ctx context.Context, key string) (*store.File, error) {
	o, ok := h.store.(store.FileOpener)
	if !ok || h.opts.Policy != nil {
		return nil, notFound("no file %q", key)
	}
	return o.OpenFile(ctx, key)
}

// fileContent answers with a file that is open already.
func fileContent(f *store.File, mime, cache string) *content {
	open := func(context.Context) (*store.File, error) { return f, nil }
	return &content{mime: mime, cache: cache, size: f.Size, file: open, opened: f}
}
