package bucketstore

import (
	"io"
	"sync"
)

// feed is a pipe with room for some of what was written: its writer and its reader, one of each, work side by side.
type feed struct {
	ring *[]byte // what lies from read on up to written is the reader's, the rest the writer's

	mu            sync.Mutex // guards all below
	moved         *sync.Cond
	read, written int64 // bytes since the beginning
	end           error // what the reader gets behind all bytes; nil: more may come
	left          bool  // nobody reads any more
}

// transferSize is the size of buffers for bytes that come from a network: fewer wake-ups, and little for each upload.
const transferSize = 256 << 10

var transferBuffers = sync.Pool{New: func() any {
	b := make([]byte, transferSize)
	return &b
}}

func newFeed() *feed {
	f := &feed{ring: transferBuffers.Get().(*[]byte)}
	f.moved = sync.NewCond(&f.mu)
	return f
}

// release gives the buffer back, when neither side uses it any more.
func (f *feed) release() { transferBuffers.Put(f.ring) }

// Write implements io.Writer. It fails with errDecoded if nobody reads any more.
func (f *feed) Write(p []byte) (int, error) {
	ring := *f.ring
	for n := 0; n < len(p); {
		f.mu.Lock()
		for f.written-f.read == int64(len(ring)) && !f.left {
			f.moved.Wait()
		}
		written, room, left := f.written, int64(len(ring))-(f.written-f.read), f.left
		f.mu.Unlock()
		if left {
			return n, errDecoded
		}
		at := written % int64(len(ring))
		k := copy(ring[at:min(int64(len(ring)), at+room)], p[n:])
		n += k
		f.move(func() { f.written += int64(k) })
	}
	return len(p), nil
}

// Read implements io.Reader.
func (f *feed) Read(p []byte) (int, error) {
	ring := *f.ring
	f.mu.Lock()
	for f.written == f.read && f.end == nil {
		f.moved.Wait()
	}
	read, there, end := f.read, f.written-f.read, f.end
	f.mu.Unlock()
	if there == 0 {
		return 0, end
	}
	at := read % int64(len(ring))
	n := copy(p, ring[at:min(int64(len(ring)), at+there)])
	f.move(func() { f.read += int64(n) })
	return n, nil
}

// finish says that nothing more is written. Later calls change nothing.
func (f *feed) finish(end error) {
	f.move(func() {
		if f.end == nil {
			f.end = end
		}
	})
}

// leave says that nothing more is read.
func (f *feed) leave() { f.move(func() { f.left = true }) }

func (f *feed) move(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.moved.Signal() // there is one on the other side at most
}

var _ io.ReadWriter = (*feed)(nil)
