package protocol

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/voidnxlab/nixtrap/bench/internal/archive"
	"github.com/voidnxlab/nixtrap/narinfo"
)

var archiveChecks = []check{
	{"archives are what the narinfos say", checkArchives},
	{"archives are the local store's, byte by byte", checkDump},
	{"no Content-Encoding on archives, whatever is accepted", checkEncoding},
	{"an archive that is cut can be told from a whole one", checkFraming},
}

func checkArchives(ctx context.Context, s *session) error {
	for i := range s.items {
		if err := s.checkArchive(ctx, &s.items[i]); err != nil {
			return fmt.Errorf("%s: %w", s.items[i].path, err)
		}
	}
	return nil
}

// checkArchive reads an archive and compares hashes and sizes, before and after decoding.
func (s *session) checkArchive(ctx context.Context, i *item) error {
	file, decoded := newDigest(), newDigest()
	if err := s.decode(ctx, i, io.TeeReader(s.conn, file), decoded); err != nil {
		return err
	}
	if hash := decoded.sum(); hash != i.info.NarHash || decoded.size != i.info.NarSize {
		return fmt.Errorf("the NAR is %s, %d bytes; the narinfo says %s, %d",
			hash, decoded.size, i.info.NarHash, i.info.NarSize)
	}
	if i.info.FileSize != 0 && file.size != i.info.FileSize {
		return fmt.Errorf("the file is %d bytes; the narinfo says %d", file.size, i.info.FileSize)
	}
	if hash := file.sum(); i.info.FileHash.Type() == narinfo.SHA256 && hash != i.info.FileHash {
		return fmt.Errorf("the file is %s; the narinfo says %s", hash, i.info.FileHash)
	}
	return nil
}

// decode asks for an archive and writes what is in it. from reads the body.
func (s *session) decode(ctx context.Context, i *item, from io.Reader, to io.Writer) error {
	r, err := s.begin(ctx, "GET", i.narURL())
	if err != nil {
		return err
	}
	if r.Status != 200 {
		return fmt.Errorf("%s: status %d", i.narURL(), r.Status)
	}
	decoder, err := archive.Decode(from, i.info.Compression)
	if errors.Is(err, archive.ErrUnknown) {
		return skip("%s", err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", i.narURL(), err)
	}
	if _, err := io.Copy(to, decoder); err != nil {
		return fmt.Errorf("%s: %w", i.narURL(), err)
	}
	_, err = io.Copy(io.Discard, from) // what is behind the archive is part of the file
	return err
}

// digest hashes and counts.
type digest struct {
	hash hash.Hash
	size int64
}

func newDigest() *digest { return &digest{hash: sha256.New()} }

func (d *digest) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	return d.hash.Write(p)
}

func (d *digest) sum() narinfo.Hash {
	hash, err := narinfo.NewHash(narinfo.SHA256, d.hash.Sum(nil))
	if err != nil {
		panic("protocol: internal error: " + err.Error())
	}
	return hash
}

func checkDump(ctx context.Context, s *session) error {
	if s.Dump == nil {
		return skip("there is no local store")
	}
	compared := 0
	for i := range s.items {
		err := s.compareDump(ctx, &s.items[i])
		if errors.Is(err, ErrNoDump) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.items[i].path, err)
		}
		compared++
	}
	if compared == 0 {
		return skip("the local store has none of the paths")
	}
	return nil
}

func (s *session) compareDump(ctx context.Context, i *item) error {
	local, err := s.Dump(ctx, i.path)
	if err != nil {
		return err
	}
	defer local.Close()
	c := &comparer{r: local}
	if err := s.decode(ctx, i, s.conn, c); err != nil {
		return err
	}
	if n, err := local.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return fmt.Errorf("the local store has more than %d bytes (%v)", c.offset, err)
	}
	return nil
}

// comparer is a writer that fails at the first byte that r has otherwise.
type comparer struct {
	r      io.Reader
	offset int64
	buf    []byte
}

func (c *comparer) Write(p []byte) (int, error) {
	if len(c.buf) < len(p) {
		c.buf = make([]byte, len(p))
	}
	n, err := io.ReadFull(c.r, c.buf[:len(p)])
	for i := range n {
		if p[i] != c.buf[i] {
			return i, fmt.Errorf("byte %d differs from the local store's", c.offset+int64(i))
		}
	}
	c.offset += int64(n)
	if err != nil {
		return n, fmt.Errorf("the local store ends after %d bytes (%w)", c.offset, err)
	}
	return n, nil
}

// checkEncoding asks as browsers and Nix do. Nix resumes only where no encoding is set.
func checkEncoding(ctx context.Context, s *session) error {
	i, plain, err := s.archive(ctx)
	if err != nil {
		return err
	}
	for _, accept := range []string{"zstd, br, gzip, deflate, bzip2, xz", "gzip", "*", "identity;q=0"} {
		a, err := s.want(ctx, 200, i.narURL(), "Accept-Encoding: "+accept)
		if err != nil {
			return err
		}
		if encoding := a.Field("Content-Encoding"); encoding != "" {
			return fmt.Errorf("%s with Accept-Encoding: %s: Content-Encoding %q", i.narURL(), accept, encoding)
		}
		if !bytes.Equal(a.body, plain.body) {
			return fmt.Errorf("%s with Accept-Encoding: %s: other bytes", i.narURL(), accept)
		}
	}
	return nil
}

// checkFraming sees that the answer says where it ends: a body that ends with its connection is whole to every client,
// wherever it was cut.
func checkFraming(ctx context.Context, s *session) error {
	for i := range s.items {
		it := &s.items[i]
		r, err := s.begin(ctx, "GET", it.narURL())
		if err != nil {
			return err
		}
		if r.Unframed {
			return fmt.Errorf("%s: neither Content-Length nor chunks", it.narURL())
		}
		if r.Length >= 0 && it.info.FileSize > 0 && r.Length != it.info.FileSize {
			return fmt.Errorf("%s: Content-Length %d, FileSize %d", it.narURL(), r.Length, it.info.FileSize)
		}
		if err := s.conn.Close(); err != nil {
			return err
		}
	}
	return nil
}
