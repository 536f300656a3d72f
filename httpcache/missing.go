package httpcache

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// MissingFinder is a [store.Receiver] that tells for many paths at once which of them have to be uploaded.
type MissingFinder interface {
	// Missing returns those of the hash parts that are not there, in the order given. What is there, and so not among
	// them, stays for the time that a client takes to upload what refers to it. It is safe for concurrent use.
	Missing(ctx context.Context, hashes []narinfo.HashPart) ([]narinfo.HashPart, error)
}

const (
	missingPath = "/missing-paths"

	// MaxMissingPaths is the most paths that one POST to /missing-paths may ask about.
	MaxMissingPaths = 100_000
	// maxMissingBody is the most bytes of such a request, decoded: more than that many store paths of usual length have.
	maxMissingBody = 16 << 20
)

// finder answers requests for /missing-paths, and is nil if this request is none or nobody can answer it.
func (a *answer) finder() MissingFinder {
	if a.r.URL.Path != missingPath {
		return nil
	}
	finder, _ := a.h.opts.Receiver.(MissingFinder)
	return finder
}

// missing answers which of many paths a client has to upload.
func (a *answer) missing(finder MissingFinder) error {
	a.kind = KindMissingPaths
	if err := a.require(ScopePush); err != nil {
		return err
	}
	asked, hashes, err := a.readAsked()
	if err != nil {
		return err
	}
	missing, err := finder.Missing(a.r.Context(), hashes)
	if err != nil {
		return err
	}
	absent := make(map[narinfo.HashPart]bool, len(missing))
	for _, hash := range missing {
		absent[hash] = true
	}
	told := missingAnswer{Missing: []string{}}
	for i, hash := range hashes {
		if absent[hash] {
			told.Missing = append(told.Missing, asked[i])
		}
	}
	text, err := json.Marshal(told)
	if err != nil {
		return fmt.Errorf("httpcache: %w", err)
	}
	return a.writeJSON(text)
}

type missingAnswer struct {
	Missing []string `json:"missing"`
}

// readAsked reads what a client asks about: as it is spelled, and as hash parts.
func (a *answer) readAsked() (asked []string, hashes []narinfo.HashPart, err error) {
	text, err := a.readBody(maxMissingBody)
	if err != nil {
		return nil, nil, err
	}
	var request struct {
		Paths []string `json:"paths"`
	}
	if err := json.Unmarshal(text, &request); err != nil || request.Paths == nil {
		return nil, nil, errMalformedMissing
	}
	if len(request.Paths) > MaxMissingPaths {
		return nil, nil, tooLong("more than %d paths", MaxMissingPaths)
	}
	hashes = make([]narinfo.HashPart, len(request.Paths))
	for i, text := range request.Paths {
		if hashes[i], err = a.h.askedHash(text); err != nil {
			return nil, nil, err
		}
	}
	return request.Paths, hashes, nil
}

// askedHash reads a hash part, or a store path of this cache.
func (h *Handler) askedHash(text string) (narinfo.HashPart, error) {
	if !strings.HasPrefix(text, "/") {
		hash, err := narinfo.ParseHashPart(text)
		if err != nil {
			return "", errMalformedHash
		}
		return hash, nil
	}
	path, err := narinfo.ParseStorePath(text)
	if err != nil || path.Dir() != h.store.StoreDir() {
		return "", errMalformedStore
	}
	return path.HashPart(), nil
}

// readBody reads a request's body, decoded, of at most limit bytes.
func (a *answer) readBody(limit int64) ([]byte, error) {
	content, end, err := a.upload()
	if err != nil {
		return nil, err
	}
	defer end()
	text, err := io.ReadAll(io.LimitReader(content, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errBody, err)
	case int64(len(text)) > limit:
		return nil, tooLong("a body of more than %d bytes", limit)
	}
	return text, nil
}

func tooLong(format string, args ...any) error {
	return &store.RefusedError{Why: store.TooLarge, Detail: fmt.Sprintf(format, args...)}
}

// writeJSON answers with what nobody may cache.
func (a *answer) writeJSON(text []byte) error {
	h := a.w.Header()
	h.Set("Content-Type", mimeJSON)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", cacheNever)
	h.Set("Content-Length", strconv.Itoa(len(text)))
	a.writeHead(http.StatusOK)
	if _, err := a.body.Write(text); err != nil {
		a.abort(err)
	}
	return a.finish()
}
