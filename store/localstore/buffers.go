package localstore

import "sync"

const (
	bufferSize      = 1 << 20   // a write of a MiB costs two thirds of four of a quarter
	smallBufferSize = 256 << 10 // for readers beyond maxBuffers, which are most likely slow
	maxBuffers      = 32
)

// buffers lends buffers to readers: large ones to some, smaller ones to the rest, so that many cost little.
// The zero value is ready. It is safe for concurrent use.
type buffers struct {
	large, small sync.Pool // of *[]byte

	mu   sync.Mutex // guards lent
	lent int        // large ones
}

func (p *buffers) get() *[]byte {
	if b := p.getLarge(); b != nil {
		return b
	}
	return fromPool(&p.small, smallBufferSize)
}

// getLarge returns nil if none is to spare.
func (p *buffers) getLarge() *[]byte {
	p.mu.Lock()
	if p.lent == maxBuffers {
		p.mu.Unlock()
		return nil
	}
	p.lent++
	p.mu.Unlock()
	return fromPool(&p.large, bufferSize)
}

func fromPool(pool *sync.Pool, size int) *[]byte {
	if b, ok := pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, size)
	return &b
}

func (p *buffers) put(b *[]byte) {
	if len(*b) != bufferSize {
		p.small.Put(b)
		return
	}
	p.large.Put(b)
	p.mu.Lock()
	p.lent--
	p.mu.Unlock()
}
