package artefact

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/internal/filehash"
	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// artefact is a finished one. Of its fields only claim and place change what they say, guarded by Cache.mu.
type artefact struct {
	narHash, fileHash narinfo.Hash
	size              int64
	used              int64 // nanoseconds since 1970, as found by Open
	claim             *claim
	place             *list.Element

	proving chan struct{} // holds an element while somebody reads or changes proved
	proved  nar.FileID    // the state in which it was found to have fileHash
}

func (a *artefact) name() string {
	return a.narHash.Base32() + "-" + encoderID + "-" + a.fileHash.Base32() + suffix
}

func (c *Cache) path(a *artefact) string { return filepath.Join(c.dir, a.name()) }

// openFinished opens an artefact that its caller has counted itself as a user of.
func (c *Cache) openFinished(ctx context.Context, a *artefact) (*store.File, error) {
	f, id, err := c.openProved(ctx, a)
	if err == nil {
		h := &handle{File: f, c: c, a: a}
		unchanged := func() error { return a.unchanged(f, id) }
		return &store.File{ReadSeekCloser: h, Size: a.size, ModTime: time.Unix(0, id.Mtime), Hash: a.fileHash,
			Source: f, Check: unchanged}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, store.ErrCorrupt) && !a.claim.gone {
		c.log.Error("damaged artefact removed", "file", a.name(), "error", err)
		c.stats.Damaged++
		if damaged := c.opts.Trace.Damaged; damaged != nil {
			damaged(a.narHash)
		}
		c.remove(a)
	}
	c.release(a.claim)
	if errors.Is(err, store.ErrCorrupt) {
		err = errTryAgain
	}
	return nil, err
}

// openProved opens an artefact's file and sees that it is what its name says. A file that is gone is damaged too.
func (c *Cache) openProved(ctx context.Context, a *artefact) (*os.File, nar.FileID, error) {
	f, err := os.OpenFile(c.path(a), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		return nil, nar.FileID{}, fmt.Errorf("artefact: %w: %w", err, store.ErrCorrupt)
	}
	if err != nil {
		return nil, nar.FileID{}, fmt.Errorf("artefact: %w", err)
	}
	id, err := a.prove(ctx, f)
	if err != nil {
		return nil, id, errors.Join(err, f.Close())
	}
	return f, id, nil
}

// prove returns the file's state, in which it has the hash in its name. The file is then at its beginning.
func (a *artefact) prove(ctx context.Context, f *os.File) (nar.FileID, error) {
	select {
	case a.proving <- struct{}{}:
		defer func() { <-a.proving }()
	case <-ctx.Done():
		return nar.FileID{}, ctx.Err()
	}
	id, err := nar.FileIDOf(f)
	if err != nil || id == a.proved {
		return id, err
	}
	// What changed just now may change again within the same tick of the clock: such a proof is good for once.
	settled := time.Since(time.Unix(0, id.Ctime)) > 2*time.Second
	if id.Size != a.size {
		return id, fmt.Errorf("artefact: %d bytes, not %d: %w", id.Size, a.size, store.ErrCorrupt)
	}
	if err := a.hash(ctx, f); err != nil {
		return id, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return id, err
	}
	if err := a.unchanged(f, id); err != nil {
		return id, err
	}
	if settled {
		a.proved = id
	}
	return id, nil
}

func (a *artefact) hash(ctx context.Context, f *os.File) error {
	got, err := filehash.Sum(ctx, f)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("artefact: %w: %w", err, store.ErrCorrupt)
	case got != a.fileHash:
		return fmt.Errorf("artefact: hash is %s: %w", got, store.ErrCorrupt)
	}
	return nil
}

// unchanged fails if the file is not as it was when it was proved.
func (a *artefact) unchanged(f *os.File, proved nar.FileID) error {
	id, err := nar.FileIDOf(f)
	if err == nil && id != proved {
		err = fmt.Errorf("artefact: %q changed while it was read: %w", a.name(), store.ErrCorrupt)
	}
	return err
}

// handle is a finished artefact, open for one reader.
type handle struct {
	*os.File
	c      *Cache
	a      *artefact
	closed bool
}

// Close lets the artefact be evicted. A second Close does nothing.
func (h *handle) Close() error {
	if h.closed {
		return nil
	}
	h.closed = true
	err := h.File.Close()
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	h.c.release(h.a.claim)
	return err
}
