package bucketstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// OpenArchive returns the archive's file as it is. The first time, and whenever the file has changed since, it is read
// in full before: against FileHash, or without that decoded and checked against NarHash.
func (s *Store) OpenArchive(ctx context.Context, info *narinfo.Info) (*store.File, error) {
	info, err := s.current(ctx, info)
	if err != nil {
		return nil, err
	}
	return s.openArchive(ctx, info)
}

func (s *Store) openArchive(ctx context.Context, info *narinfo.Info) (*store.File, error) {
	if !info.FileHash.IsZero() && info.FileHash.Type() == narinfo.SHA256 {
		return s.openProved(ctx, info.URL, info.FileSize, info.FileHash, hashFile(info.URL, info.FileHash))
	}
	return s.openProved(ctx, info.URL, info.FileSize, info.NarHash, func(ctx context.Context, f *os.File) error {
		r, err := newNARReader(ctx, f, info)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		return errors.Join(err, r.dec.Close())
	})
}

// openProved opens a file that prove, given the file at its beginning, accepts, or has accepted in its present state
// for the same hash. size is what it must have, 0 for any.
func (s *Store) openProved(ctx context.Context, name string, size int64, hash narinfo.Hash,
	prove func(context.Context, *os.File) error,
) (*store.File, error) {
	f, st, err := s.openRegular(name)
	if err != nil {
		return nil, err
	}
	if size != 0 && st.Size() != size {
		err := fmt.Errorf("bucketstore: %q has %d bytes, not %d: %w", name, st.Size(), size, store.ErrCorrupt)
		return nil, errors.Join(err, f.Close())
	}
	id, err := s.prove(ctx, f, hash, prove)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	proved := &provedFile{file: f, name: name, id: id}
	return &store.File{ReadSeekCloser: proved, Size: id.Size, ModTime: time.Unix(0, id.Mtime)}, nil
}

// prove returns the identity that the file had while it was proved. The file is then at its beginning.
func (s *Store) prove(ctx context.Context, f *os.File, hash narinfo.Hash,
	prove func(context.Context, *os.File) error,
) (nar.FileID, error) {
	id, err := nar.FileIDOf(f)
	if err != nil || s.proofs.has(proof{id, hash}) {
		return id, err
	}
	if err := prove(ctx, f); err != nil {
		return id, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return id, err
	}
	// What changed just now may change again within the same tick of the clock: such a proof is good for once.
	if time.Since(time.Unix(0, id.Ctime)) > 2*time.Second {
		s.proofs.add(proof{id, hash})
	}
	return id, nil
}

// hashFile proves that a whole file has a SHA-256.
func hashFile(name string, want narinfo.Hash) func(context.Context, *os.File) error {
	return func(ctx context.Context, f *os.File) error {
		h := sha256.New()
		buf := make([]byte, 256<<10)
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := f.Read(buf)
			h.Write(buf[:n])
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("bucketstore: %w", err)
			}
		}
		if got, err := narinfo.NewHash(narinfo.SHA256, h.Sum(nil)); err != nil || got != want {
			return fmt.Errorf("bucketstore: %q hashes to %s, not %s: %w", name, got, want, store.ErrCorrupt)
		}
		return nil
	}
}

// provedFile lets bytes go only while the file is what was proved.
type provedFile struct {
	file *os.File
	name string
	id   nar.FileID
}

// Read implements io.Reader.
func (p *provedFile) Read(b []byte) (int, error) {
	n, err := p.file.Read(b)
	id, statErr := nar.FileIDOf(p.file)
	if statErr != nil {
		return 0, fmt.Errorf("bucketstore: %w", statErr)
	}
	if id != p.id {
		return 0, fmt.Errorf("bucketstore: %q changed while it was read: %w", p.name, store.ErrCorrupt)
	}
	return n, err
}

// Seek implements io.Seeker.
func (p *provedFile) Seek(offset int64, whence int) (int64, error) {
	return p.file.Seek(offset, whence)
}

// Close implements io.Closer.
func (p *provedFile) Close() error { return p.file.Close() }

// proof says that a file in this state has this hash, or decodes to it.
type proof struct {
	id   nar.FileID
	hash narinfo.Hash
}

// maxProofs bounds the memory of proofs to a few MiB.
const maxProofs = 1 << 14

// proofs is a bounded set.
type proofs struct {
	mu  sync.Mutex // guards set
	set map[proof]struct{}
}

func (p *proofs) has(q proof) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.set[q]
	return ok
}

// add makes room by forgetting any other, which will be proved again.
func (p *proofs) add(q proof) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.set == nil {
		p.set = map[proof]struct{}{}
	}
	for other := range p.set {
		if len(p.set) < maxProofs {
			break
		}
		delete(p.set, other)
	}
	p.set[q] = struct{}{}
}
