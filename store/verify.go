package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Verify reads the path's NAR to its end and checks its size and hash itself, whatever the store did.
// A NAR that is not what info promises is an error for which errors.Is(err, [ErrCorrupt]) is true.
// It reads at most one byte more than info.NarSize.
func Verify(ctx context.Context, s Store, info *narinfo.Info) error {
	r, err := s.Open(ctx, info)
	if err != nil {
		return err
	}
	h := sha256.New()
	limit := info.NarSize
	if limit < math.MaxInt64 {
		limit++
	}
	n, err := io.Copy(h, io.LimitReader(r, limit))
	if err := errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("store: verifying %q: %w", info.StorePath, err)
	}
	if n != info.NarSize {
		return fmt.Errorf("store: %q has a NAR of another size than %d: %w", info.StorePath, info.NarSize, ErrCorrupt)
	}
	if got, err := narinfo.NewHash(narinfo.SHA256, h.Sum(nil)); err != nil || got != info.NarHash {
		return fmt.Errorf("store: %q hashes to %s, not %s: %w", info.StorePath, got, info.NarHash, ErrCorrupt)
	}
	return nil
}
