package httpcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// maxRecord bounds a stored realisation or debuginfo file, which have a few hundred bytes.
const maxRecord = 1 << 20

// buildLog answers with a derivation's log, decoded. Its length is not known beforehand.
func (h *Handler) buildLog(ctx context.Context, base string) (*content, error) {
	drv, err := narinfo.NewStorePath(h.store.StoreDir(), base)
	if err != nil {
		return nil, errMalformedDrv
	}
	o, ok := h.store.(store.LogOpener)
	if !ok || !drv.IsDerivation() {
		return nil, notFound("no log of %q", drv)
	}
	if err := h.allowDerivation(ctx, drv); err != nil {
		return nil, err
	}
	r, err := o.OpenLog(ctx, drv) // for HEAD too: there is no other way to tell whether it is there
	if err != nil {
		return nil, err
	}
	open := func(context.Context, span) (io.ReadCloser, error) { return r, nil }
	return &content{mime: mimeText, cache: cacheAnHour, size: -1, open: open, opened: r}, nil
}

// allowDerivation is nil if the policy allows the derivation itself or a path that was made by it.
func (h *Handler) allowDerivation(ctx context.Context, drv narinfo.StorePath) error {
	if h.opts.Policy == nil {
		return nil
	}
	err := h.allowPath(ctx, drv)
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	d, ok := h.store.(store.Derivers)
	if !ok {
		return err
	}
	for p, err := range d.DerivedPaths(ctx, drv) {
		if err != nil {
			return err
		}
		if err := h.allowPath(ctx, p); !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return err
}

// allowPath is nil if the path is there and the policy allows it.
func (h *Handler) allowPath(ctx context.Context, p narinfo.StorePath) error {
	info, err := store.Lookup(ctx, h.store, p)
	if err != nil {
		return err
	}
	return h.allow(ctx, info)
}

// realisation answers for /realisations/ID.doi, as Nix up to 2.34 asks: ID is "sha256:BASE16!OUTPUT".
func (h *Handler) realisation(ctx context.Context, name string) (*content, error) {
	id, ok := strings.CutSuffix(name, ".doi")
	hash, output, cut := strings.Cut(id, "!")
	if !ok || !cut || !validOutput(output) {
		return nil, errMalformedID
	}
	if sum, err := narinfo.ParseHash(hash); err != nil || hash != "sha256:"+sum.Base16() {
		return nil, errMalformedID
	}
	return h.realisationRecord(ctx, id, "realisations/"+name)
}

// buildTrace answers for /build-trace-v2/DRV/OUTPUT.doi, as Nix's development branch asks.
// A store's [store.RealisationOpener] is asked for "DRV^OUTPUT", which is how that Nix spells the id.
func (h *Handler) buildTrace(ctx context.Context, name string) (*content, error) {
	base, file, _ := strings.Cut(name, "/")
	output, ok := strings.CutSuffix(file, ".doi")
	if !ok || !validOutput(output) {
		return nil, errMalformedID
	}
	drv, err := narinfo.NewStorePath(h.store.StoreDir(), base)
	if err != nil || !drv.IsDerivation() {
		return nil, errMalformedDrv
	}
	return h.realisationRecord(ctx, base+"^"+output, "build-trace-v2/"+name)
}

// validOutput reports whether s can be a derivation output's name, which is one of a store path.
func validOutput(s string) bool {
	const anyHash = "00000000000000000000000000000000"
	_, err := narinfo.NewStorePath(narinfo.DefaultStoreDir, anyHash+"-"+s)
	return err == nil
}

func (h *Handler) realisationRecord(ctx context.Context, id, key string) (*content, error) {
	record, err := h.openRealisation(ctx, id, key)
	if err != nil {
		return nil, err
	}
	var r struct {
		OutPath string `json:"outPath"`
	}
	if err := json.Unmarshal(record, &r); err != nil {
		return nil, fmt.Errorf("httpcache: realisation %q: %v: %w", id, err, store.ErrCorrupt)
	}
	if h.opts.Policy != nil {
		out, err := narinfo.NewStorePath(h.store.StoreDir(), path.Base(r.OutPath))
		if err != nil {
			return nil, fmt.Errorf("httpcache: realisation %q: %v: %w", id, err, store.ErrCorrupt)
		}
		if err := h.allowPath(ctx, out); err != nil {
			return nil, err
		}
	}
	return text(mimeJSON, cacheAnHour, record), nil
}

// openRealisation reads a record from what the store knows, or from a file that it keeps.
func (h *Handler) openRealisation(ctx context.Context, id, key string) ([]byte, error) {
	err := notFound("no realisation %q", id)
	if o, ok := h.store.(store.RealisationOpener); ok {
		var record []byte
		record, err = o.Realisation(ctx, id)
		if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrUnsupported) {
			return record, err
		}
	}
	if o, ok := h.store.(store.FileOpener); ok {
		return readRecord(ctx, o, key)
	}
	return nil, err
}

func readRecord(ctx context.Context, o store.FileOpener, key string) ([]byte, error) {
	f, err := o.OpenFile(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err == nil && len(b) > maxRecord {
		err = fmt.Errorf("httpcache: file %q is larger than %d bytes: %w", key, maxRecord, store.ErrCorrupt)
	}
	return b, err
}

// debugInfo answers where the debug symbols of a build id are, as Nix's index-debug-info writes it.
// Nix writes, and debuginfod servers for Nix ask for, both "BUILDID.debug" and "BUILDID".
func (h *Handler) debugInfo(ctx context.Context, name string) (*content, error) {
	id := strings.TrimSuffix(name, ".debug")
	if !validBuildID(id) {
		return nil, errMalformedBuildID
	}
	if o, ok := h.store.(store.DebugInfoFinder); ok {
		c, err := h.findDebugInfo(ctx, o, id)
		if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrUnsupported) {
			return c, err
		}
	}
	o, ok := h.store.(store.FileOpener)
	if !ok || h.opts.Policy != nil {
		return nil, notFound("no debug info of %q", id)
	}
	record, err := readRecord(ctx, o, "debuginfo/"+id+".debug")
	if errors.Is(err, store.ErrNotFound) {
		record, err = readRecord(ctx, o, "debuginfo/"+id)
	}
	if err != nil {
		return nil, err
	}
	return text(mimeJSON, cacheAnHour, record), nil
}

func (h *Handler) findDebugInfo(ctx context.Context, o store.DebugInfoFinder, id string) (*content, error) {
	p, member, err := o.DebugInfo(ctx, id)
	if err != nil {
		return nil, err
	}
	info, err := store.Lookup(ctx, h.store, p)
	if err != nil {
		return nil, err
	}
	if err := h.allow(ctx, info); err != nil {
		return nil, err
	}
	h.nameArchive(info) // dwarffs unpacks plain and xz-compressed archives alone
	return document(cacheAnHour, struct {
		Archive string `json:"archive"` // relative to debuginfo/
		Member  string `json:"member"`
	}{"../" + info.URL, member})
}

// validBuildID reports whether id is 2 to 64 bytes in lower-case base 16; 20 are usual.
func validBuildID(id string) bool {
	return len(id) >= 4 && len(id) <= 128 && len(id)%2 == 0 && strings.Trim(id, "0123456789abcdef") == ""
}

// health answers "ok" if the store can tell whether a path is there. What others would have to be asked for does not
// count: a restart would not mend an upstream.
func (h *Handler) health(ctx context.Context) (*content, error) {
	const probe narinfo.HashPart = "00000000000000000000000000000000"
	if _, err := h.store.Info(store.LocalOnly(ctx), probe); err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", errUnavailable, err)
	}
	c := text(mimeText, cacheNever, []byte("ok\n"))
	c.etag = ""
	return c, nil
}
