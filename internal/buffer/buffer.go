// Package buffer lends buffers to readers of files: large ones to some, smaller ones to the rest, so that many cost little.
package buffer

import "sync"

const (
	// Large is the size of the first buffers that a [Pool] lends: a write of a MiB costs two thirds of four of a quarter.
	Large = 1 << 20
	// Small is the size of further ones. Where so many are in use, most readers are slow.
	Small = 256 << 10

	maxLarge = 32
)

// Pool lends buffers, at most 32 large ones at a time. Its zero value is ready. It is safe for concurrent use.
type Pool struct {
	large, small sync.Pool // of *[]byte

	mu   sync.Mutex // guards lent
	lent int        // large ones
}

// Get returns a large buffer or, if all are lent, a small one. Put gives it back.
func (p *Pool) Get() *[]byte {
	if b := p.GetLarge(); b != nil {
		return b
	}
	return from(&p.small, Small)
}

// GetLarge returns nil if all large buffers are lent.
func (p *Pool) GetLarge() *[]byte {
	p.mu.Lock()
	if p.lent == maxLarge {
		p.mu.Unlock()
		return nil
	}
	p.lent++
	p.mu.Unlock()
	return from(&p.large, Large)
}

func from(pool *sync.Pool, size int) *[]byte {
	if b, ok := pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, size)
	return &b
}

// Put takes back what Get or GetLarge returned.
func (p *Pool) Put(b *[]byte) {
	if len(*b) != Large {
		p.small.Put(b)
		return
	}
	p.large.Put(b)
	p.mu.Lock()
	p.lent--
	p.mu.Unlock()
}
