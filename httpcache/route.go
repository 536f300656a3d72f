package httpcache

import (
	"context"
	"net/http"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// resolver decides on an answer. Its errors are looked up in the one table: see statusOf.
type resolver func(ctx context.Context) (*content, error)

// route says what a request asks for, by its decoded path alone and without asking the store anything.
func (h *Handler) route(r *http.Request) (Kind, resolver) {
	path, ok := strings.CutPrefix(r.URL.Path, "/")
	if !ok || hostile(path) {
		return KindOther, fails(errMalformedPath)
	}
	first, rest, nested := strings.Cut(path, "/")
	if !nested {
		return h.routeTop(first, r)
	}
	switch first {
	case "nar":
		return KindNAR, h.routeNAR(rest, r.URL.Query())
	case "log":
		return KindLog, func(ctx context.Context) (*content, error) { return h.buildLog(ctx, rest) }
	case "realisations":
		return KindRealisation, func(ctx context.Context) (*content, error) { return h.realisation(ctx, rest) }
	case "build-trace-v2":
		return KindRealisation, func(ctx context.Context) (*content, error) { return h.buildTrace(ctx, rest) }
	case "debuginfo":
		return KindDebugInfo, func(ctx context.Context) (*content, error) { return h.debugInfo(ctx, rest) }
	case "serve":
		hash, file, slash := strings.Cut(rest, "/")
		at := place{hash: hash, file: file, slash: slash}
		return KindServe, func(ctx context.Context) (*content, error) { return h.serveFile(ctx, at) }
	}
	return KindOther, fails(notFound("no such URL"))
}

func (h *Handler) routeTop(name string, r *http.Request) (Kind, resolver) {
	switch name {
	case "":
		return KindLanding, func(context.Context) (*content, error) { return h.landing(r) }
	case "nix-cache-info":
		return KindCacheInfo, func(context.Context) (*content, error) {
			return text("text/x-nix-cache-info", cacheAnHour, h.info), nil
		}
	case "healthz":
		return KindHealth, h.health
	}
	if hash, ok := strings.CutSuffix(name, ".narinfo"); ok {
		form := h.narinfos.text
		if r.URL.Query().Has("json") {
			form = h.narinfoJSON
		}
		return KindNarinfo, func(ctx context.Context) (*content, error) { return h.narinfo(ctx, hash, form) }
	}
	if hash, ok := strings.CutSuffix(name, ".ls"); ok {
		return KindListing, func(ctx context.Context) (*content, error) { return h.listing(ctx, hash) }
	}
	return KindOther, fails(notFound("no such URL"))
}

func fails(err error) resolver {
	return func(context.Context) (*content, error) { return nil, err }
}

// hostile reports a path that no client sends by mistake: with ".", ".." as a component, or with control characters.
// Nothing here joins such a path to a folder; refusing it early keeps it out of every later consideration.
func hostile(path string) bool {
	for i := range len(path) {
		if path[i] < ' ' || path[i] == 0x7f {
			return true
		}
	}
	for component := range strings.SplitSeq(path, "/") {
		if component == "." || component == ".." {
			return true
		}
	}
	return false
}

// lookUp finds a path that may be served. A path that the policy forbids is as one that is not there.
func (h *Handler) lookUp(ctx context.Context, hash string) (*narinfo.Info, error) {
	part, err := narinfo.ParseHashPart(hash)
	if err != nil {
		return nil, errMalformedHash
	}
	info, err := h.store.Info(ctx, part)
	if err != nil {
		return nil, err
	}
	return info, h.allow(ctx, info)
}

// allow is nil if the policy lets info's path be served.
func (h *Handler) allow(ctx context.Context, info *narinfo.Info) error {
	if h.opts.Policy == nil {
		return nil
	}
	ok, err := h.opts.Policy.Allows(ctx, info)
	if err == nil && !ok {
		err = notFound("the policy forbids %q", info.StorePath)
	}
	return err
}
