package bucketstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Open returns the path's NAR, decoded, which proves itself while it is read.
func (s *Store) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	info, err := s.current(ctx, info)
	if err != nil {
		return nil, err
	}
	f, _, err := s.openArchiveFile(info)
	if err != nil {
		return nil, err
	}
	r, err := newNARReader(ctx, f, info)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

// OpenRange returns a part of the path's NAR. An archive stored without compression is read in place once it is proved;
// any other is decoded from its beginning to its end.
func (s *Store) OpenRange(ctx context.Context, info *narinfo.Info, offset, length int64) (io.ReadCloser, error) {
	info, err := s.current(ctx, info)
	if err != nil {
		return nil, err
	}
	if info.Compression != "none" {
		return store.OpenRange(ctx, struct{ store.Store }{s}, info, offset, length)
	}
	if err := store.CheckRange(info, offset, length); err != nil {
		return nil, err
	}
	f, err := s.openArchive(ctx, info)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &section{io.LimitedReader{R: f, N: length}, f}, nil
}

type section struct {
	io.LimitedReader
	io.Closer
}

// openArchiveFile opens the file at the narinfo's URL.
func (s *Store) openArchiveFile(info *narinfo.Info) (*os.File, int64, error) {
	f, st, err := s.openRegular(info.URL)
	if err != nil {
		return nil, 0, err
	}
	if info.FileSize != 0 && st.Size() != info.FileSize {
		err := fmt.Errorf("bucketstore: %q has %d bytes, not %d: %w", info.URL, st.Size(), info.FileSize, store.ErrCorrupt)
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

// narReader decodes an archive and hashes what it yields.
// The read that reaches NarSize yields its bytes only if nothing follows and the hash is right.
type narReader struct {
	ctx  context.Context // of Open, for which reading is a part of opening
	file *fileReader
	dec  io.ReadCloser
	info *narinfo.Info
	hash hash.Hash
	left int64
	err  error // sticky
}

// newNARReader takes over f unless it fails.
func newNARReader(ctx context.Context, f *os.File, info *narinfo.Info) (*narReader, error) {
	r := &narReader{ctx: ctx, file: &fileReader{File: f}, info: info, hash: sha256.New(), left: info.NarSize}
	var err error
	if r.dec, err = newDecoder(info.Compression, r.file); err != nil {
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
			return r.corrupt("goes on after %d bytes", r.info.NarSize)
		}
	}
	if !errors.Is(err, io.EOF) {
		return r.decodeError(err)
	}
	if got, err := narinfo.NewHash(narinfo.SHA256, r.hash.Sum(nil)); err != nil || got != r.info.NarHash {
		return r.corrupt("hashes to %s, not %s", got, r.info.NarHash)
	}
	return io.EOF
}

func (r *narReader) corrupt(format string, args ...any) error {
	return fmt.Errorf("bucketstore: the NAR in %q %s: %w", r.info.URL, fmt.Sprintf(format, args...), store.ErrCorrupt)
}

// decodeError tells malformed data from trouble with the file and from what can't be decoded here.
func (r *narReader) decodeError(err error) error {
	if r.file.err != nil {
		return fmt.Errorf("bucketstore: %w", r.file.err)
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("bucketstore: %q: %w", r.info.URL, err)
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
	*os.File
	err error
}

// Read implements io.Reader.
func (r *fileReader) Read(p []byte) (int, error) {
	n, err := r.File.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}
