package contest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"

	"github.com/voidnxlab/nixtrap/bench/internal/archive"
	"github.com/voidnxlab/nixtrap/bench/internal/rawhttp"
	"github.com/voidnxlab/nixtrap/bench/internal/workload"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// getNarinfo gets a path's narinfo and compares it with what the store says. It returns its length too.
func getNarinfo(ctx context.Context, conn *rawhttp.Conn, url string, p workload.Path) (*narinfo.Info, int64, error) {
	r, err := conn.Get(ctx, url)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", url, err)
	}
	var text bytes.Buffer
	if _, err := text.ReadFrom(io.LimitReader(conn, narinfo.MaxSize)); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", url, err)
	}
	if r.Status != http.StatusOK {
		return nil, 0, fmt.Errorf("%s: status %d", url, r.Status)
	}
	info, err := narinfo.Parse(text.Bytes())
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", url, err)
	}
	if string(info.StorePath) != p.Path || info.NarHash.String() != p.NarHash || info.NarSize != p.NarSize {
		return nil, 0, fmt.Errorf("%s says %s, %s, %d bytes; the store says %s, %s, %d bytes", url,
			info.StorePath, info.NarHash, info.NarSize, p.Path, p.NarHash, p.NarSize)
	}
	return info, int64(text.Len()), nil
}

// verify fetches a path, decodes it and compares its hash.
func verify(ctx context.Context, conn *rawhttp.Conn, prefix string, p workload.Path) error {
	info, _, err := getNarinfo(ctx, conn, prefix+"/"+p.HashPart()+".narinfo", p)
	if err != nil {
		return err
	}
	url := prefix + "/" + info.URL
	r, err := conn.Get(ctx, url)
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if r.Status != http.StatusOK || r.Field("Content-Encoding") != "" {
		return fmt.Errorf("%s: status %d, content encoding %q", url, r.Status, r.Field("Content-Encoding"))
	}
	hash, size, err := hashArchive(conn, info.Compression)
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if hash.String() != p.NarHash || size != p.NarSize {
		return fmt.Errorf("%s is a NAR of %s and %d bytes; the store says %s, %d bytes",
			url, hash, size, p.NarHash, p.NarSize)
	}
	return nil
}

// hashArchive decodes an archive to its end.
func hashArchive(r io.Reader, compression string) (narinfo.Hash, int64, error) {
	decoded, err := archive.Decode(r, compression)
	if err != nil {
		return narinfo.Hash{}, 0, err
	}
	h := sha256.New()
	n, err := io.Copy(h, decoded)
	if err != nil {
		return narinfo.Hash{}, n, err
	}
	hash, err := narinfo.NewHash(narinfo.SHA256, h.Sum(nil))
	return hash, n, err
}
