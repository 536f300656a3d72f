// Package filehash hashes files that may be long.
package filehash

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Sum returns the SHA-256 of what r yields to its end. It reads 256 KiB at a time, and none after ctx has ended.
// Errors are those of r and ctx.
func Sum(ctx context.Context, r io.Reader) (narinfo.Hash, error) {
	h, buf := sha256.New(), make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return narinfo.Hash{}, err
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return narinfo.NewHash(narinfo.SHA256, h.Sum(nil))
		}
		if err != nil {
			return narinfo.Hash{}, err
		}
	}
}
