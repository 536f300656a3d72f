package httpstore

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

var realisationID = regexp.MustCompile(`^sha256:[0-9a-f]{64}![0-9a-zA-Z+\-._?=]{1,211}$`)

// Realisation returns realisations/ID.doi, asked for within the budget of a look-up and not kept.
// Its signatures are for the client to check. A file that isn't JSON is [store.ErrCorrupt].
func (s *Store) Realisation(ctx context.Context, id string) ([]byte, error) {
	if !realisationID.MatchString(id) {
		return nil, notFound(id)
	}
	a, err := s.fetch(ctx, key("realisations", id+".doi"), nil, maxRealisation)
	if err != nil {
		return nil, err
	}
	if !json.Valid(a.body) {
		return nil, fmt.Errorf("httpstore: realisation %q is not JSON: %w", id, store.ErrCorrupt)
	}
	return a.body, nil
}

// OpenLog returns log/NAME.drv, decoded however it is compressed. Nothing proves a log.
// One that is cut, or longer than 256 MiB, ends in an error.
func (s *Store) OpenLog(ctx context.Context, drv narinfo.StorePath) (io.ReadCloser, error) {
	if !drv.IsDerivation() || drv.Dir() != s.StoreDir() || store.IsLocalOnly(ctx) {
		return nil, notFound(string(drv))
	}
	u, err := s.resolve(key("log", drv.Base()))
	if err != nil {
		return nil, err
	}
	b, err := s.openBody(ctx, u, narfile.MaxLog)
	if err != nil {
		return nil, err
	}
	src, err := b.decoded()
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	r, err := narfile.OpenLog(src)
	if err != nil {
		return nil, fmt.Errorf("httpstore: log of %q: %w", drv, err)
	}
	return r, nil
}
