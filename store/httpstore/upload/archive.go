package upload

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// archive is a path's archive, ready to be sent as often as need be.
type archive struct {
	key         string
	compression string
	hash        narinfo.Hash
	size        int64
	open        func(ctx context.Context) (io.ReadCloser, error)
	close       func()
}

// extensions are the names' ends of what any server can check.
var extensions = map[string]string{"none": "", "zstd": ".zst", "xz": ".xz", "gzip": ".gz", "bzip2": ".bz2"}

func (a *archive) name() { a.key = "nar/" + a.hash.Base32() + ".nar" + extensions[a.compression] }

// pack makes a path's archive.
func (c *Client) pack(ctx context.Context, s store.Store, info *narinfo.Info) (*archive, error) {
	if kept := c.keptArchive(s, info); kept != nil {
		return kept, nil
	}
	if c.opts.Compression == None {
		a := &archive{compression: "none", hash: info.NarHash, size: info.NarSize, close: func() {}}
		a.open = func(ctx context.Context) (io.ReadCloser, error) { return s.Open(ctx, info) }
		a.name()
		return a, nil
	}
	return c.compress(ctx, s, info)
}

// keptArchive is the archive that the store keeps as a file, nil if there is none that may be sent.
func (c *Client) keptArchive(s store.Store, info *narinfo.Info) *archive {
	opener, ok := s.(store.ArchiveOpener)
	_, known := extensions[info.Compression]
	if !ok || !known || info.URL == "" || info.FileHash.IsZero() || info.FileHash.Type() != narinfo.SHA256 ||
		info.FileSize <= 0 || c.opts.Compression != "" && string(c.opts.Compression) != info.Compression {
		return nil
	}
	a := &archive{compression: info.Compression, hash: info.FileHash, size: info.FileSize, close: func() {}}
	a.open = func(ctx context.Context) (io.ReadCloser, error) { return opener.OpenArchive(ctx, info) }
	a.name()
	return a
}

// compress compresses a path's archive into a spool.
func (c *Client) compress(ctx context.Context, s store.Store, info *narinfo.Info) (_ *archive, err error) {
	r, err := s.Open(ctx, info)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	p := &spool{dir: c.opts.TempDir, hash: sha256.New()}
	defer func() {
		if err != nil {
			p.remove()
		}
	}()
	encoder, err := c.encoders.take(p)
	if err != nil {
		return nil, err
	}
	defer c.encoders.give(encoder)
	n, err := io.Copy(encoder, r)
	if err == nil {
		err = encoder.Close()
	}
	if err == nil && n != info.NarSize {
		err = fmt.Errorf("%d bytes, not %d: %w", n, info.NarSize, store.ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("upload: archive of %q: %w", info.StorePath, err)
	}
	a := &archive{compression: "zstd", size: p.size, open: p.open, close: p.remove}
	if a.hash, err = narinfo.NewHash(narinfo.SHA256, p.hash.Sum(nil)); err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	a.name()
	return a, nil
}

// encoders are zstd encoders that wait for more. It is safe for concurrent use.
type encoders struct{ idle sync.Pool }

func (e *encoders) take(w io.Writer) (*zstd.Encoder, error) {
	if encoder, ok := e.idle.Get().(*zstd.Encoder); ok {
		encoder.Reset(w)
		return encoder, nil
	}
	// Paths are compressed side by side, each by one core.
	encoder, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	return encoder, nil
}

func (e *encoders) give(encoder *zstd.Encoder) {
	encoder.Reset(nil)
	e.idle.Put(encoder)
}

// maxInMemory is the longest archive that is kept in memory, in bytes.
const maxInMemory = 1 << 20

// spool keeps what is written to it, in memory or in a file without a name, and hashes it.
// It is written by one goroutine, then read by many.
type spool struct {
	dir    string
	hash   hash.Hash
	size   int64
	memory bytes.Buffer
	file   *os.File // nil: all is in memory
}

// Write implements io.Writer.
func (s *spool) Write(p []byte) (int, error) {
	s.hash.Write(p)
	s.size += int64(len(p))
	if s.file == nil && s.size <= maxInMemory {
		return s.memory.Write(p)
	}
	if s.file == nil {
		if err := s.spill(); err != nil {
			return 0, err
		}
	}
	return s.file.Write(p)
}

func (s *spool) spill() (err error) {
	if s.file, err = os.CreateTemp(s.dir, "nixtrap-upload-*"); err != nil {
		return err
	}
	_ = os.Remove(s.file.Name()) // whatever happens to this process, nothing stays
	_, err = s.file.Write(s.memory.Bytes())
	s.memory = bytes.Buffer{}
	return err
}

func (s *spool) open(context.Context) (io.ReadCloser, error) {
	if s.file == nil {
		return io.NopCloser(bytes.NewReader(s.memory.Bytes())), nil
	}
	return io.NopCloser(io.NewSectionReader(s.file, 0, s.size)), nil
}

func (s *spool) remove() {
	if s.file != nil {
		_ = s.file.Close()
	}
}

// sentBody is a body on its way. The transport may still read it when it has returned an error.
type sentBody struct {
	r     io.ReadCloser
	moved func(n int)

	mu  sync.Mutex // guards err
	err error      // of r
}

// Read implements io.Reader.
func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	b.moved(n)
	return n, err
}

// Close implements io.Closer.
func (b *sentBody) Close() error { return b.r.Close() }

func (b *sentBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// sendArchive uploads an archive, unless the server has it.
func (c *Client) sendArchive(ctx context.Context, path narinfo.StorePath, a *archive) error {
	there, err := c.exists(ctx, path, a.key)
	if err != nil || there {
		return err
	}
	r := &request{method: http.MethodPut, path: a.key, about: path, size: a.size,
		header: http.Header{"Content-Type": {"application/x-nix-nar"}}}
	r.body = func(ctx context.Context) (io.ReadCloser, error) {
		content, err := a.open(ctx)
		if err != nil {
			return nil, err
		}
		return &meter{ReadCloser: content, told: func(n int64) { c.sent(path, n, a.size) }}, nil
	}
	return c.put(ctx, r)
}

func (c *Client) sent(path narinfo.StorePath, n, size int64) {
	if sent := c.opts.Trace.Sent; sent != nil {
		sent(path, n, size)
	}
}

// meter tells how many bytes were read.
type meter struct {
	io.ReadCloser
	n    int64
	told func(n int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.n += int64(n)
	m.told(m.n)
	return n, err
}
