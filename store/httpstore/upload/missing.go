package upload

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/voidnxlab/nixtrap/narinfo"
)

const (
	// batch is how many paths one request asks about.
	batch = 10_000
	// probes is how many requests ask at a time about one path each.
	probes = 16
	// maxMissing is the most bytes of an answer: each path is repeated at most.
	maxMissing = 1 << 20
)

// Missing returns those of the paths that the cache does not have, in the order given. It asks about many at once where
// the server knows how to answer that, and about each otherwise.
func (c *Client) Missing(ctx context.Context, paths []*narinfo.Info) ([]*narinfo.Info, error) {
	absent := make(map[narinfo.HashPart]bool)
	for part := range slices.Chunk(paths, batch) {
		known, err := c.askMissing(ctx, part, absent)
		if err == nil && !known {
			clear(absent)
			err = c.probe(ctx, paths, absent)
			if err == nil {
				break
			}
		}
		if err != nil {
			return nil, err
		}
	}
	var missing []*narinfo.Info
	for _, info := range paths {
		if absent[info.StorePath.HashPart()] {
			missing = append(missing, info)
		}
	}
	return missing, nil
}

// askMissing enters into absent which of the paths are not there, or returns false if the server cannot say.
func (c *Client) askMissing(ctx context.Context, paths []*narinfo.Info, absent map[narinfo.HashPart]bool) (bool, error) {
	question := struct {
		Paths []narinfo.HashPart `json:"paths"`
	}{[]narinfo.HashPart{}}
	asked := make(map[narinfo.HashPart]bool, len(paths))
	for _, info := range paths {
		question.Paths = append(question.Paths, info.StorePath.HashPart())
		asked[info.StorePath.HashPart()] = true
	}
	text, err := json.Marshal(question)
	if err != nil {
		return false, fmt.Errorf("upload: %w", err)
	}
	r := &request{method: http.MethodPost, path: "missing-paths", size: int64(len(text)), body: bytesBody(text),
		header: http.Header{"Content-Type": {"application/json"}}, keep: maxMissing}
	a, err := c.do(ctx, r)
	if err != nil {
		return false, err
	}
	switch {
	case a.status == http.StatusUnauthorized || a.status == http.StatusProxyAuthRequired || a.status == http.StatusForbidden:
		return false, r.failed(a)
	case a.status != http.StatusOK:
		return false, nil // another kind of server: 404, 405, 400, 501 …
	}
	var told struct {
		Missing []narinfo.HashPart `json:"missing"`
	}
	if err := json.Unmarshal(a.body, &told); err != nil || told.Missing == nil {
		return false, nil // such as a page for people
	}
	for _, hash := range told.Missing {
		if asked[hash] {
			absent[hash] = true
		}
	}
	return true, nil
}

// probe asks about each path.
func (c *Client) probe(ctx context.Context, paths []*narinfo.Info, absent map[narinfo.HashPart]bool) error {
	there := make([]bool, len(paths))
	g, during := errgroup.WithContext(ctx)
	g.SetLimit(probes)
	for i, info := range paths {
		if during.Err() != nil {
			break
		}
		g.Go(func() (err error) {
			there[i], err = c.exists(during, info.StorePath, string(info.StorePath.HashPart())+".narinfo")
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, info := range paths {
		if !there[i] {
			absent[info.StorePath.HashPart()] = true
		}
	}
	return ctx.Err()
}

func bytesBody(text []byte) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
}

func sortedKeys(m map[narinfo.StorePath]error) []narinfo.StorePath {
	return slices.Sorted(maps.Keys(m))
}
