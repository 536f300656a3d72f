package localstore

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/nar"
)

// smallFile is the size up to which files are kept in memory. Larger ones are read fast enough.
const smallFile = 256 << 10

// memory keeps archives of proved paths without their large files. An archive takes the place of others that were used
// less recently than it was itself the time before: so a round through more paths than there is room for leaves those in
// that are in, instead of replacing each before its next use.
// The bytes are the system's, not the garbage collector's, which would let as much garbage grow beside them.
// It is safe for concurrent use.
type memory struct {
	limit int64 // bytes

	mu      sync.Mutex // guards all below, and the readers of each kept
	used    int64      // with what was dropped and is still read
	order   list.List  // of *kept, the most recently used first
	entries map[*object]*list.Element
}

// kept is one archive in memory.
type kept struct {
	o       *object
	data    []byte // what is not in large files, end to end
	used    int64  // when it was last acquired, in nanoseconds since 1970
	readers int
	dropped bool
	looked  atomic.Int64 // when all files were last compared, in nanoseconds since 1970
}

func newMemory(limit int64) *memory {
	return &memory{limit: limit, entries: make(map[*object]*list.Element)}
}

// acquire returns what is kept of o, nil if nothing is. The caller releases it.
func (m *memory) acquire(o *object) *kept {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[o]
	if e == nil {
		return nil
	}
	m.order.MoveToFront(e)
	k := e.Value.(*kept)
	k.used = time.Now().UnixNano()
	k.readers++
	return k
}

func (m *memory) release(k *kept) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k.readers--
	m.free(k)
}

// drop forgets what is kept of o.
func (m *memory) drop(o *object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[o]; e != nil {
		m.evict(e)
	}
}

func (m *memory) evict(e *list.Element) {
	k := m.order.Remove(e).(*kept)
	delete(m.entries, k.o)
	k.dropped = true
	m.free(k)
}

func (m *memory) free(k *kept) {
	if !k.dropped || k.readers > 0 {
		return
	}
	m.used -= pages(int64(len(k.data)))
	_ = unix.Munmap(k.data)
	k.data = nil
}

// reserve makes room for size bytes of o, which was used at the given time before this one.
// It returns nil if there is none. What it returns is not kept until add, and has the caller as its reader.
func (m *memory) reserve(o *object, size, before int64) *kept {
	m.mu.Lock()
	defer m.mu.Unlock()
	need := pages(size)
	if size <= 0 || need > m.limit || m.entries[o] != nil || !m.makeRoom(need, before) {
		return nil
	}
	data, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil
	}
	m.used += need
	return &kept{o: o, data: data, used: time.Now().UnixNano(), readers: 1, dropped: true}
}

// makeRoom evicts archives that nobody reads and that were last used before the given time, the least recently used
// first, until need more bytes fit. Where even all of them would not do it evicts none.
func (m *memory) makeRoom(need, before int64) bool {
	var victims []*list.Element
	free := m.limit - m.used
	for e := m.order.Back(); e != nil && free < need; e = e.Prev() {
		k := e.Value.(*kept)
		if k.used >= before {
			break
		}
		if k.readers == 0 {
			victims = append(victims, e)
			free += pages(int64(len(k.data)))
		}
	}
	if free < need {
		return false
	}
	for _, e := range victims {
		m.evict(e)
	}
	return true
}

// add keeps what reserve returned and its caller has filled.
func (m *memory) add(k *kept) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries[k.o] == nil {
		k.dropped = false
		m.entries[k.o] = m.order.PushFront(k)
	}
}

// pages is how much n bytes take of the system.
func pages(n int64) int64 {
	size := int64(unix.Getpagesize())
	return (n + size - 1) / size * size
}

// close drops everything. What is still read goes with its readers.
func (m *memory) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.order.Len() > 0 {
		m.evict(m.order.Back())
	}
}

// lookAfter has all files of a path compared with what was proved, in the background, if that was long ago. What is in
// memory was proved and stays right; what can come late is the alarm that what is on disk is not.
func (s *Store) lookAfter(k *kept) {
	now := time.Now().UnixNano()
	if now-k.looked.Load() < int64(s.options.ages.memory) || !s.looking.TryLock() {
		return
	}
	k.looked.Store(now)
	started := s.background.Start(func(ctx context.Context) {
		defer s.looking.Unlock()
		var files fileReader
		err := files.begin(k.o)
		defer files.end()
		unchanged := false
		if err == nil {
			files.expectAll()
			unchanged, err = files.unchanged(sameContent)
		}
		if !unchanged && (err == nil || vanished(err)) {
			_ = s.blame(ctx, k.o.subject, proofSum{}, "changed on disk")
		}
	})
	if !started {
		s.looking.Unlock()
	}
}

// segments yields the archive's bytes from off to off+n, what is in memory in the longest runs that there are.
func (k *kept) segments(off, n int64, yield func(nar.Segment) bool) {
	at, skip, left := int64(0), off, n // at is in data
	memory := func(to int64) bool {
		run := k.data[at:to]
		at = to
		from := min(skip, int64(len(run)))
		skip -= from
		run = run[from:min(int64(len(run)), from+left)]
		left -= int64(len(run))
		return len(run) == 0 || yield(nar.Segment{Bytes: run, Length: int64(len(run))})
	}
	begin := int64(0) // of the run of memory, in the archive
	for _, i := range k.o.large {
		e := k.o.layout.Entry(i)
		if !memory(at+e.Offset-begin) || left == 0 {
			return
		}
		begin = e.Offset + e.Size
		from := min(skip, e.Size)
		skip -= from
		length := min(e.Size-from, left)
		left -= length
		if length > 0 && !yield(nar.Segment{File: i, Offset: from, Length: length}) || left == 0 {
			return
		}
	}
	memory(int64(len(k.data)))
}

// fill reads all that is to be kept. It fails if a file is not what was proved.
func (k *kept) fill(ctx context.Context) (err error) {
	var files fileReader
	if err := files.begin(k.o); err != nil {
		return err
	}
	defer files.end()
	at := 0
	for seg := range k.o.layout.Segments(0, k.o.layout.Size()) {
		switch {
		case seg.Bytes != nil:
			at += copy(k.data[at:], seg.Bytes)
		case k.o.ids[seg.File].Size <= smallFile:
			if !files.readProved(seg, k.data[at:][:seg.Length]) {
				return k.changed()
			}
			at += int(seg.Length)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if unchanged, err := files.unchanged(sameContent); err != nil || !unchanged || at != len(k.data) {
		return k.changed()
	}
	return nil
}

func (k *kept) changed() error {
	return fmt.Errorf("localstore: path %q changed while it was read into memory", k.o.path)
}

// remember is called when a proved path was read as a whole, and reads it into memory in the background.
func (s *Store) remember(o *object) {
	before := o.served.Swap(time.Now().UnixNano())
	if s.memory.limit == 0 || !o.remembering.CompareAndSwap(false, true) {
		return
	}
	k := s.memory.reserve(o, o.smallBytes(), before)
	started := k != nil && s.background.Start(func(ctx context.Context) {
		if k.fill(ctx) == nil && s.objects.get(o.key()) == o {
			s.memory.add(k)
			if s.objects.get(o.key()) != o { // forgotten between the two
				s.memory.drop(o)
			}
			if trace := s.options.Trace; trace != nil && trace.Remembered != nil {
				trace.Remembered(o.path, int64(len(k.data)))
			}
		}
		s.memory.release(k)
		o.remembering.Store(false)
	})
	if started {
		return
	}
	if k != nil {
		s.memory.release(k)
	}
	o.remembering.Store(false)
}

// smallBytes is how much of the archive is not in large files.
func (o *object) smallBytes() int64 {
	size := o.layout.Size()
	for _, i := range o.large {
		size -= o.ids[i].Size
	}
	return size
}
