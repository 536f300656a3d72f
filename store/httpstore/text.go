package httpstore

import (
	"bufio"
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

const (
	maxRealisation = 1 << 20
	maxLog         = 256 << 20
)

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
	b, err := s.openBody(ctx, u, maxLog)
	if err != nil {
		return nil, err
	}
	r, err := newLogReader(b)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("httpstore: log of %q: %w", drv, err), b.Close())
	}
	return r, nil
}

// logReader decodes a log, up to a limit.
type logReader struct {
	src  io.Closer
	dec  io.ReadCloser
	left int64
}

func newLogReader(b *body) (*logReader, error) {
	src, err := b.decoded()
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewReader(src)
	head, err := buffered.Peek(narfile.MagicSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	dec, err := narfile.NewDecoder(narfile.Detect(head), buffered)
	return &logReader{src: src, dec: dec, left: maxLog}, err
}

// Read implements io.Reader.
func (r *logReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, fmt.Errorf("httpstore: a log of more than %d bytes", maxLog)
	}
	n, err := r.dec.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, err
}

// Close implements io.Closer.
func (r *logReader) Close() error { return errors.Join(r.dec.Close(), r.src.Close()) }
