package bucketstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/voidnxlab/nixtrap/internal/narfile"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Open returns the path's NAR, decoded, which proves itself while it is read.
func (s *Store) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	a, err := s.openCurrent(ctx, info)
	if err != nil {
		return nil, err
	}
	r, err := s.newNARReader(ctx, a)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return r, nil
}

// OpenRange returns a part of the path's NAR. An archive stored without compression is read in place once it is proved;
// any other is decoded from its beginning to its end.
func (s *Store) OpenRange(ctx context.Context, info *narinfo.Info, offset, length int64) (io.ReadCloser, error) {
	if err := store.CheckRange(info, offset, length); err != nil {
		return nil, err
	}
	a, err := s.openCurrent(ctx, info)
	if err != nil {
		return nil, err
	}
	if a.info.Compression != "none" {
		if err := a.Close(); err != nil {
			return nil, fmt.Errorf("bucketstore: %w", err)
		}
		return store.OpenRange(ctx, struct{ store.Store }{s}, info, offset, length)
	}
	if err := s.prove(ctx, a); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	if _, err := a.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	f := s.proved(ctx, a)
	return &section{io.LimitedReader{R: f, N: length}, f}, nil
}

type section struct {
	io.LimitedReader
	io.Closer
}

// narReader decodes an archive and hashes what it yields.
// The read that reaches NarSize yields its bytes only if nothing follows and the hash is right.
type narReader struct {
	ctx     context.Context // of Open, for which reading is a part of opening
	store   *Store
	archive *archive
	file    *fileReader // the archive's
	dec     io.ReadCloser
	hash    hash.Hash
	left    int64
	err     error // sticky
}

// newNARReader takes over a unless it fails.
func (s *Store) newNARReader(ctx context.Context, a *archive) (*narReader, error) {
	r := &narReader{ctx: ctx, store: s, archive: a, file: &fileReader{Object: a.Object}, hash: sha256.New(),
		left: a.info.NarSize}
	var err error
	if r.dec, err = narfile.NewDecoder(a.info.Compression, r.file); err != nil {
		return nil, r.decodeError(err)
	}
	return r, nil
}

// Read implements io.Reader.
func (r *narReader) Read(p []byte) (int, error) {
	if r.err == nil && len(p) == 0 {
		return 0, nil
	}
	if r.err == nil {
		r.err = r.ctx.Err()
	}
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.dec.Read(p[:min(int64(len(p)), r.left)])
	r.hash.Write(p[:n])
	r.left -= int64(n)
	switch {
	case r.left == 0:
		r.err = r.prove(err)
		if !errors.Is(r.err, io.EOF) {
			return 0, r.err
		}
	case errors.Is(err, io.EOF):
		r.err = r.corrupt("ends %d bytes early", r.left)
	case err != nil:
		r.err = r.decodeError(err)
	default:
		return n, nil
	}
	return n, r.err
}

// prove is called with all bytes hashed; io.EOF is success.
func (r *narReader) prove(err error) error {
	if err == nil {
		var one [1]byte
		if _, err = io.ReadFull(r.dec, one[:]); err == nil {
			return r.corrupt("goes on after %d bytes", r.archive.info.NarSize)
		}
	}
	if !errors.Is(err, io.EOF) {
		return r.decodeError(err)
	}
	if got, err := narinfo.NewHash(narinfo.SHA256, r.hash.Sum(nil)); err != nil || got != r.archive.info.NarHash {
		return r.corrupt("hashes to %s, not %s", got, r.archive.info.NarHash)
	}
	return io.EOF
}

func (r *narReader) corrupt(format string, args ...any) error {
	return r.store.blame(r.ctx, r.archive, reasonContent, "the NAR in it "+format, args...)
}

// decodeError tells malformed data from trouble with the file and from what can't be decoded here.
func (r *narReader) decodeError(err error) error {
	if r.file.err != nil {
		return fmt.Errorf("bucketstore: %w", r.file.err)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("bucketstore: %q: %w", r.archive.name, err)
	}
	return r.corrupt("does not decode (%v)", err)
}

// Close implements io.Closer.
func (r *narReader) Close() error {
	if r.err == nil {
		r.err = os.ErrClosed
	}
	return errors.Join(r.dec.Close(), r.file.Close())
}

// fileReader remembers that reading the file failed, whatever a decoder makes of it.
type fileReader struct {
	Object
	err error
}

// Read implements io.Reader.
func (r *fileReader) Read(p []byte) (int, error) {
	n, err := r.Object.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
