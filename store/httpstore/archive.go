package httpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/voidnxlab/nixtrap/internal/narfile"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// OpenArchive returns the path's archive as it is, streamed from its first byte on.
// Its size is FileSize, or what the cache says of it, or -1. A Seek to another place than the next byte has the whole
// archive read and proved, from its beginning, before the next Read yields anything.
func (s *Store) OpenArchive(ctx context.Context, info *narinfo.Info) (*store.File, error) {
	now, err := store.Current(ctx, s, info)
	if err != nil {
		return nil, err
	}
	if fileHash(now).IsZero() && !narfile.CanDecode(now.Compression) {
		return nil, fmt.Errorf("httpstore: %q has no FileHash, and its compression is %q: %w", now.StorePath,
			now.Compression, store.ErrUnsupported)
	}
	a := &archive{ctx: ctx, store: s, info: now}
	src, err := s.openFile(ctx, now)
	if err != nil {
		return nil, err
	}
	a.begin(src)
	f := &store.File{ReadSeekCloser: a, Size: a.size, ModTime: src.body.modified, Hash: fileHash(now)}
	return f, nil
}

// fileHash is what the archive's file must hash to, zero if the narinfo does not tell.
func fileHash(info *narinfo.Info) narinfo.Hash {
	if info.FileHash.Type() == narinfo.SHA256 {
		return info.FileHash
	}
	if info.Compression == "none" {
		return info.NarHash
	}
	return narinfo.Hash{}
}

// archive reads a path's archive as it is: from the cache while it is read in order, else from a temporary file.
// It is not safe for concurrent use.
type archive struct {
	ctx   context.Context // of OpenArchive, for which reading is a part of opening
	store *Store
	info  *narinfo.Info
	size  int64 // -1: unknown

	pos    int64 // of the next Read
	stream *stream
	at     int64    // of the stream
	spool  *os.File // the whole archive, proved; nil: there is none yet
	err    error
}

// begin sets the stream up. src is at its beginning, and is the stream's from now on.
func (a *archive) begin(src *file) {
	a.size = storedSize(a.info)
	if a.size == 0 {
		a.size = src.body.size
	}
	a.stream, a.at = newStream(a.ctx, a.info, src, a.size), 0
}

// Read implements io.Reader.
func (a *archive) Read(p []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	if a.spool == nil && a.pos != a.at {
		if a.err = a.fill(); a.err != nil {
			return 0, a.err
		}
	}
	if a.spool != nil {
		n, err := a.spool.ReadAt(p, a.pos)
		a.pos += int64(n)
		if n > 0 {
			err = nil
		}
		return n, err
	}
	n, err := a.stream.Read(p)
	a.pos += int64(n)
	a.at = a.pos
	return n, a.store.blame(a.info, err)
}

// fill reads the whole archive into a temporary file that has no name any more.
func (a *archive) fill() error {
	if err := a.stream.Close(); err != nil {
		return err
	}
	src, err := a.store.openFile(a.ctx, a.info)
	if err != nil {
		return err
	}
	a.begin(src)
	f, err := os.CreateTemp(a.store.opts.TempDir, "nixtrap-archive-")
	if err != nil {
		return fmt.Errorf("httpstore: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return errors.Join(fmt.Errorf("httpstore: %w", err), f.Close())
	}
	n, err := io.Copy(f, struct{ io.Reader }{a.stream})
	if err != nil {
		return errors.Join(a.store.blame(a.info, err), f.Close())
	}
	a.spool, a.size = f, n
	return a.stream.Close()
}

// Seek implements io.Seeker. Relative to the end of an archive of unknown size it reads the archive.
func (a *archive) Seek(offset int64, whence int) (int64, error) {
	if a.err != nil {
		return a.pos, a.err
	}
	switch whence {
	case io.SeekCurrent:
		offset += a.pos
	case io.SeekEnd:
		if a.size < 0 {
			if a.err = a.fill(); a.err != nil {
				return a.pos, a.err
			}
		}
		offset += a.size
	}
	if offset < 0 {
		return a.pos, fmt.Errorf("httpstore: seek to %d: %w", offset, os.ErrInvalid)
	}
	a.pos = offset
	return offset, nil
}

// Close implements io.Closer. A second Close does nothing.
func (a *archive) Close() error {
	if errors.Is(a.err, os.ErrClosed) {
		return nil
	}
	a.err = os.ErrClosed
	err := a.stream.Close()
	if a.spool != nil {
		err = errors.Join(err, a.spool.Close())
	}
	return err
}

// stream is an archive that proves itself while it is read in order, by its own hash or by what it decodes to.
type stream struct {
	src    *file
	proved *narfile.Reader

	// Where the archive is decoded on the side:
	pipe    *io.PipeWriter // nil: it is not
	decoder sync.WaitGroup
	verdict error // the decoder's, once it has ended
}

func newStream(ctx context.Context, info *narinfo.Info, src *file, size int64) *stream {
	s := &stream{src: src}
	hash := fileHash(info)
	if !hash.IsZero() {
		s.proved = narfile.NewReader(src, size, hash, nil)
		return s
	}
	limited := &limitedReader{src, archiveLimit(info)}
	r, w := io.Pipe()
	s.pipe = w
	s.decoder.Go(func() {
		s.verdict = decode(ctx, info, r)
		if s.verdict != nil {
			_ = r.CloseWithError(s.verdict)
		}
	})
	s.proved = narfile.NewReader(io.TeeReader(limited, w), size, hash, s.prove)
	return s
}

// decode reads the whole NAR, which proves itself.
func decode(ctx context.Context, info *narinfo.Info, r io.Reader) error {
	nar, err := narfile.OpenNAR(ctx, info, io.NopCloser(r), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, nar)
	return errors.Join(err, nar.Close())
}

// prove waits for the decoder's verdict on all that it was given.
func (s *stream) prove() error {
	_ = s.pipe.Close()
	s.decoder.Wait()
	return s.verdict
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) { return s.proved.Read(p) }

// Close implements io.Closer. A second Close does nothing.
func (s *stream) Close() error {
	if s.pipe != nil {
		_ = s.pipe.CloseWithError(os.ErrClosed)
		s.decoder.Wait()
	}
	return s.src.Close()
}

// limitedReader fails where there is more than there may be.
type limitedReader struct {
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fmt.Errorf("httpstore: an archive that is too long: %w", store.ErrCorrupt)
	}
	return n, err
}
