package relay

import (
	"net"
	"sync"
	"time"
)

// pair is a client's connection and the one to the server.
type pair struct {
	client *net.TCPConn
	done   chan struct{} // closed when it is to end
	goes   sync.WaitGroup

	mu     sync.Mutex // guards what follows
	server *net.TCPConn
	ended  bool
}

// join adds the server's side; false if the pair has ended meanwhile.
func (p *pair) join(server *net.TCPConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		server.Close()
		return false
	}
	p.server = server
	return true
}

// reset ends both connections without waiting for what is under way: the peers see ECONNRESET.
func (p *pair) reset() { p.end(true) }

// close ends both and waits for the pair's goroutines.
func (p *pair) close() {
	p.end(false)
	p.goes.Wait()
}

func (p *pair) end(reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	close(p.done)
	for _, c := range []*net.TCPConn{p.client, p.server} {
		if c == nil {
			continue
		}
		if reset {
			_ = c.SetLinger(0) // then Close sends RST
		}
		c.Close()
	}
}

// until waits until a time, and tells whether the pair is still there.
func (p *pair) until(due time.Time) bool {
	wait := time.Until(due)
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.done:
		return false
	}
}

// lane is one direction of the link.
type lane struct {
	mu      sync.Mutex // guards what follows
	shape   Shape
	busy    time.Time // until when the bytes that were admitted occupy the link
	carried int64
	cutAt   int64 // carried bytes at which cut is called
	cut     func()
}

func (l *lane) set(s Shape) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shape = s
}

func (l *lane) bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.carried
}

func (l *lane) after(n int64, cut func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutAt, l.cut = l.carried+n, cut
}

// admit puts n bytes on the link and returns when they have left for the other end and when they arrive there.
func (l *lane) admit(n int) (sent, due time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.busy.Before(now) {
		l.busy = now
	}
	if l.shape.Rate > 0 {
		l.busy = l.busy.Add(time.Duration(int64(n) * int64(time.Second) / l.shape.Rate))
	}
	return l.busy, l.busy.Add(l.shape.Delay)
}

// end is when an end of stream that is seen now arrives.
func (l *lane) end() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Add(l.shape.Delay)
}

func (l *lane) count(n int) {
	l.mu.Lock()
	l.carried += int64(n)
	var cut func()
	if l.cut != nil && l.carried >= l.cutAt {
		cut, l.cut = l.cut, nil
	}
	l.mu.Unlock()
	if cut != nil {
		cut()
	}
}
