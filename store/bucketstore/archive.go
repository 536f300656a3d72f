package bucketstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/voidnxlab/nixtrap/internal/filehash"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// archive is an open file that an archive should be in.
type archive struct {
	Object
	name  string        // its key
	info  *narinfo.Info // whose archive it is; nil: nobody said
	state State         // when it was opened
}

// openKey opens a file under a key of any kind.
func (s *Store) openKey(ctx context.Context, name string) (*archive, error) {
	f, err := s.files.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	state, err := f.State()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &archive{Object: f, name: name, state: state}, nil
}

// openInfo opens the file at the narinfo's URL. Where there is none, or one of another size than the narinfo says, the
// path is put into quarantine.
func (s *Store) openInfo(ctx context.Context, info *narinfo.Info) (*archive, error) {
	a, err := s.openKey(ctx, s.key(info.URL))
	if errors.Is(err, store.ErrNotFound) {
		return nil, s.missing(info, &damage{info.URL, reasonAbsent, "no such file"})
	}
	if err != nil {
		return nil, err
	}
	if size := storedSize(info); size != 0 && a.state.Size != size {
		err := s.missing(info, &damage{info.URL, reasonSize, fmt.Sprintf("has %d bytes, not %d", a.state.Size, size)})
		return nil, errors.Join(err, a.Close())
	}
	a.info = info
	return a, nil
}

// storedSize is what the archive's file must have, 0 if the narinfo does not tell.
func storedSize(info *narinfo.Info) int64 {
	if info.FileSize == 0 && info.Compression == "none" {
		return info.NarSize
	}
	return info.FileSize
}

// OpenArchive returns the archive's file as it is. The first time, and whenever the file has changed since, it is read
// in full before: against FileHash, or without that decoded and checked against NarHash.
func (s *Store) OpenArchive(ctx context.Context, info *narinfo.Info) (*store.File, error) {
	a, err := s.openCurrent(ctx, info)
	if err != nil {
		return nil, err
	}
	if err := s.prove(ctx, a); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return s.proved(ctx, a), nil
}

// prove reads the archive in full unless it was found right in its present state. It is then at its beginning.
// Of one without compression parts are handed out as the NAR's, so it has to be that as well.
func (s *Store) prove(ctx context.Context, a *archive) error {
	if hasFileHash(a.info) {
		err := s.proveOnce(a, a.info.FileHash, func() error { return s.hashFile(ctx, a, a.info.FileHash) })
		if err != nil || a.info.Compression != "none" || a.info.FileHash == a.info.NarHash {
			return err
		}
	}
	return s.proveOnce(a, a.info.NarHash, func() error { return s.decode(ctx, a) })
}

// hasFileHash reports whether there is a FileHash of the kind that Nix writes.
func hasFileHash(info *narinfo.Info) bool {
	return !info.FileHash.IsZero() && info.FileHash.Type() == narinfo.SHA256
}

// proveOnce runs prove, which reads the file from its beginning, unless it has succeeded for this hash and state.
func (s *Store) proveOnce(a *archive, hash narinfo.Hash, prove func() error) error {
	if s.proofs.has(proof{a.name, a.state.Version, hash}) {
		return nil
	}
	if err := prove(); err != nil {
		return err
	}
	if _, err := a.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("bucketstore: %w", err)
	}
	if !a.state.Unsettled {
		s.proofs.add(proof{a.name, a.state.Version, hash})
	}
	return nil
}

// decode reads the whole NAR, which proves itself.
func (s *Store) decode(ctx context.Context, a *archive) error {
	r, err := s.openNAR(ctx, a, io.NopCloser(a))
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// hashFile proves that a whole file has a SHA-256.
func (s *Store) hashFile(ctx context.Context, a *archive, want narinfo.Hash) error {
	got, err := filehash.Sum(ctx, a)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("bucketstore: %w", err)
	case got != want:
		return s.blame(ctx, a, reasonContent, "the file hashes to %s, not %s", got, want)
	}
	return nil
}

// proved takes over a, which was proved and is at its beginning.
func (s *Store) proved(ctx context.Context, a *archive) *store.File {
	return &store.File{ReadSeekCloser: &provedFile{ctx, a, s}, Size: a.state.Size, ModTime: a.state.Modified}
}

// provedFile lets bytes go only while the file is what was proved.
type provedFile struct {
	ctx     context.Context // of the call that opened it
	archive *archive
	store   *Store
}

// Read implements io.Reader.
func (p *provedFile) Read(b []byte) (int, error) {
	n, err := p.archive.Read(b)
	now, stateErr := p.archive.State()
	if stateErr != nil {
		return 0, stateErr
	}
	if now.Version != p.archive.state.Version {
		return 0, p.store.blame(p.ctx, p.archive, reasonChanged, "changed while it was read")
	}
	return n, err
}

// Seek implements io.Seeker.
func (p *provedFile) Seek(offset int64, whence int) (int64, error) {
	return p.archive.Seek(offset, whence)
}

// Close implements io.Closer.
func (p *provedFile) Close() error { return p.archive.Close() }

// proof says that a file in this state has this hash, or decodes to it.
type proof struct {
	name    string
	version any
	hash    narinfo.Hash
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

// forget drops a proof that reading has refuted: a disk may go bad under a file that nobody wrote to.
func (p *proofs) forget(q proof) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.set, q)
}
