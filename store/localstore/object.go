package localstore

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// object is what a walk of a path's files found. It does not change, the flags excepted.
type object struct {
	subject
	root   stamp // of the path itself, before the walk
	layout *nar.Layout
	ids    []nar.FileID // one a node; zero for all but regular files
	large  []int        // the nodes of files that are never kept in memory, in order
	sum    proofSum
	newest int64       // the files' latest change, in nanoseconds since 1970
	proved atomic.Bool // these files hash to narHash
	kept   atomic.Bool // and the proof file says so

	served      atomic.Int64 // when it was last read as a whole, in nanoseconds since 1970
	remembering atomic.Bool  // it is being read into memory
}

// proofSum identifies a layout with the identities of its files, of one path with one NAR hash.
type proofSum [sha256.Size]byte

type objectKey struct {
	path    narinfo.StorePath
	narHash narinfo.Hash
}

// memory estimates what the object takes, in bytes.
func (o *object) memory() int64 { return 512 + o.layout.MemSize() + int64(len(o.ids))*40 }

// object returns the path's object: a proved one that is remembered, if the path itself has not changed since,
// else what a new walk finds.
func (s *Store) object(ctx context.Context, sub subject) (*object, error) {
	if err := s.admit(sub); err != nil {
		return nil, err
	}
	if o := s.objects.get(sub.key()); o != nil {
		if root, present, err := statPath(sub.real); err == nil && present && root == o.root {
			return o, nil
		}
		s.objects.remove(o)
	}
	return s.loads.do(ctx, s.background, sub.key(), func(ctx context.Context) (*object, error) {
		return s.load(ctx, sub)
	})
}

const loadAttempts = 5 // how often a path that changes between two walks is walked

// load walks a path's files. What it finds is not believed to be wrong until it is found twice,
// for Nix may be deleting or restoring the path just now.
func (s *Store) load(ctx context.Context, sub subject) (*object, error) {
	if !s.stillValid(ctx, sub) {
		return nil, gone(sub.path)
	}
	var last proofSum
	for attempt := 0; ; attempt++ {
		o, err := s.scan(ctx, sub)
		if err == nil && o.layout.Size() == sub.narSize {
			s.recall(o)
			return o, nil
		}
		sum, reason, err := verdict(o, err)
		if err != nil {
			return nil, err
		}
		if !s.stillValid(ctx, sub) {
			return nil, gone(sub.path)
		}
		if attempt == loadAttempts {
			return nil, fmt.Errorf("localstore: path %q changes at every look", sub.path)
		}
		if attempt > 0 && sum == last {
			s.condemn(sub, sum, reason)
			return nil, fmt.Errorf("localstore: path %q: %s: %w (%w)", sub.path, reason, store.ErrNotFound, store.ErrCorrupt)
		}
		last = sum
	}
}

// verdict tells files that are wrong from those that cannot be looked at, which is an error.
func verdict(o *object, err error) (sum proofSum, reason string, _ error) {
	_, system := errors.AsType[unix.Errno](err)
	switch {
	case err == nil:
		return o.sum, fmt.Sprintf("size is %d", o.layout.Size()), nil
	case vanished(err):
		return sum, "files missing", nil
	case system, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return sum, "", fmt.Errorf("localstore: %w", err)
	}
	return sum, err.Error(), nil // not what an archive can hold
}

// scan walks a path's files.
func (s *Store) scan(ctx context.Context, sub subject) (*object, error) {
	o, err := newObject(ctx, sub)
	if trace := s.options.Trace; trace != nil && trace.Scanned != nil {
		trace.Scanned(sub.path, err)
	}
	return o, err
}

func newObject(ctx context.Context, sub subject) (*object, error) {
	root, present, err := statPath(sub.real)
	if err != nil {
		return nil, err
	}
	if !present {
		return nil, &fs.PathError{Op: "stat", Path: sub.real, Err: unix.ENOENT}
	}
	o := &object{subject: sub, root: root}
	if o.layout, o.ids, err = nar.ScanLayout(ctx, sub.real); err != nil {
		return nil, err
	}
	o.summarise()
	return o, nil
}

// summarise hashes the framing, which holds names, kinds, flags, targets and sizes, and in the contents' places the
// files' identities.
func (o *object) summarise() {
	h := sha256.New()
	h.Write([]byte(o.path))
	h.Write(o.narHash.Digest())
	var b []byte
	for seg := range o.layout.Segments(0, o.layout.Size()) {
		if seg.Bytes != nil {
			h.Write(seg.Bytes)
			continue
		}
		b = appendID(b[:0], o.ids[seg.File])
		h.Write(b)
	}
	// Empty files have no segment.
	for i, id := range o.ids {
		if id != (nar.FileID{}) && id.Size == 0 {
			b = appendID(binary.LittleEndian.AppendUint64(b[:0], uint64(i)), id)
			h.Write(b)
		}
		o.newest = max(o.newest, id.Ctime, id.Mtime)
		if id.Size > smallFile {
			o.large = append(o.large, i)
		}
	}
	h.Sum(o.sum[:0])
}

func appendID(b []byte, id nar.FileID) []byte {
	for _, n := range []uint64{id.Dev, id.Ino, uint64(id.Size), uint64(id.Mtime), uint64(id.Ctime)} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

// settledBefore reports whether no file had changed for the given time before t.
func (o *object) settledBefore(t time.Time, d time.Duration) bool {
	return o.newest < t.Add(-d).UnixNano()
}

func statPath(path string) (s stamp, present bool, err error) {
	var st unix.Stat_t
	switch err := unix.Lstat(path, &st); {
	case err == nil:
		return stampOf(&st), true, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return stamp{}, false, nil
	default:
		return stamp{}, false, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
}

// objects is a cache of proved objects, least recently used out first. It is safe for concurrent use.
type objects struct {
	limit   int64 // bytes
	dropped func(*object)

	mu      sync.Mutex // guards all below
	used    int64
	order   list.List // of *object, the most recently used first
	entries map[objectKey]*list.Element
}

func newObjects(limit int64, dropped func(*object)) *objects {
	return &objects{limit: limit, dropped: dropped, entries: make(map[objectKey]*list.Element)}
}

func (c *objects) get(key objectKey) *object {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*object)
}

// add keeps o instead of what was there, unless it is too big for the cache.
func (c *objects) add(o *object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[o.key()]; e != nil {
		c.drop(e)
	}
	if o.memory() > c.limit {
		return
	}
	c.entries[o.key()] = c.order.PushFront(o)
	c.used += o.memory()
	for c.used > c.limit {
		c.drop(c.order.Back())
	}
}

// remove forgets o, if that very object is there.
func (c *objects) remove(o *object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[o.key()]; e != nil && e.Value.(*object) == o {
		c.drop(e)
	}
}

func (c *objects) drop(e *list.Element) {
	o := c.order.Remove(e).(*object)
	delete(c.entries, o.key())
	c.used -= o.memory()
	c.dropped(o)
}
