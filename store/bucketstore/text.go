package bucketstore

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
		r, err := newLogReader(f)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("bucketstore: log of %q: %w", drv, err), f.Close())
		}
		return r, nil
	}
	return nil, notFound("log of " + string(drv))
}

// logReader decodes a log, up to a limit.
type logReader struct {
	file Object
	dec  io.ReadCloser
	left int64
}

func newLogReader(f Object) (*logReader, error) {
	buffered := bufio.NewReader(f)
	head, err := buffered.Peek(narfile.MagicSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	compression := narfile.Detect(head)
	r := &logReader{file: f, left: maxLog}
	if compression == "none" {
		r.left = 1<<63 - 1 // no longer than its file
	}
	if r.dec, err = narfile.NewDecoder(compression, buffered); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return r, nil
}

// Read implements io.Reader.
func (r *logReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, fmt.Errorf("bucketstore: a log of more than %d bytes", maxLog)
	}
	n, err := r.dec.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("bucketstore: log: %w: %w", store.ErrCorrupt, err)
	}
	return n, err
}

// Close implements io.Closer.
func (r *logReader) Close() error { return errors.Join(r.dec.Close(), r.file.Close()) }

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
