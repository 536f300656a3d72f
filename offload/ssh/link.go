package ssh

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// link is a TCP connection that knows when the builder last said something, and why it ended.
type link struct {
	net.Conn
	stuck time.Duration // how long a write may take
	began time.Time
	heard atomic.Int64 // when bytes came last, after began
	ready atomic.Bool  // the handshake is over: writes have deadlines of their own

	mu    sync.Mutex // guards what follows
	cause error      // why it ended, the first that was seen
}

var (
	errSilent = errors.New("the builder fell silent")
	errStuck  = errors.New("what was sent made no progress")
)

func newLink(c net.Conn, stuck time.Duration) *link {
	return &link{Conn: c, stuck: stuck, began: time.Now()}
}

// Read notes an error before anybody else learns of it: a session that sees its end knows whether it is a clean one.
func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.heard.Store(int64(time.Since(l.began)))
	}
	if err != nil {
		l.end(err)
	}
	return n, err
}

func (l *link) Write(p []byte) (int, error) {
	if l.ready.Load() {
		if err := l.SetWriteDeadline(time.Now().Add(l.stuck)); err != nil {
			return 0, err
		}
	}
	n, err := l.Conn.Write(p)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) && l.ready.Load() {
			err = errStuck
		}
		l.end(err)
	}
	return n, err
}

// end closes the connection, for a reason that counts if it is the first.
func (l *link) end(why error) {
	l.mu.Lock()
	if l.cause == nil {
		l.cause = why
	}
	l.mu.Unlock()
	l.Conn.Close()
}

// why is the reason, nil as long as the connection is up.
func (l *link) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// silent is how long nothing came.
func (l *link) silent() time.Duration {
	return time.Since(l.began) - time.Duration(l.heard.Load())
}

// closedByPeer tells whether an error is the end of a connection that the other side wanted.
func closedByPeer(err error) bool { return errors.Is(err, io.EOF) }
