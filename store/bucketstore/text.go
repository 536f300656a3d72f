package bucketstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/voidnxlab/nixtrap/internal/narfile"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

const maxRealisation = 1 << 20

// OpenLog returns the log of a derivation, decoded: log/NAME.drv, or the same with .zst, .xz, .bz2 or .gz appended.
// Nix stores the text itself under the first name; other tools store it compressed under any of them, so the
// compression is told from the content. A log that decodes to more than 256 MiB ends in an error.
func (s *Store) OpenLog(ctx context.Context, drv narinfo.StorePath) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !drv.IsDerivation() || drv.Dir() != s.StoreDir() {
		return nil, notFound(string(drv))
	}
	for _, extension := range []string{"", ".zst", ".xz", ".bz2", ".gz"} {
		f, err := s.files.Open(ctx, s.key("log/"+drv.Base()+extension))
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r, err := narfile.OpenLog(f)
		if err != nil {
			return nil, fmt.Errorf("bucketstore: log of %q: %w", drv, err)
		}
		return r, nil
	}
	return nil, notFound("log of " + string(drv))
}

var realisationID = regexp.MustCompile(`^sha256:[0-9a-f]{64}!` + namePattern + `$`)

// Realisation returns realisations/ID.doi. A file that isn't JSON is [store.ErrCorrupt].
func (s *Store) Realisation(ctx context.Context, id string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !realisationID.MatchString(id) {
		return nil, notFound(id)
	}
	b, err := s.readFile(ctx, s.key("realisations/"+id+".doi"), maxRealisation)
	if err == nil && !json.Valid(b) {
		return nil, fmt.Errorf("bucketstore: realisation %q is not JSON: %w", id, store.ErrCorrupt)
	}
	return b, err
}
