package ssh

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

// stderrKept is how much of the end of a command's stderr its error has, in bytes.
const stderrKept = 4 << 10

// Session is a running command. One goroutine may read, another write and others close or wait at a time.
type Session struct {
	conn   *conn
	ch     xssh.Channel
	stderr io.Writer
	tail   tail

	gone chan struct{} // closed when the channel has ended
	exit *exit         // nil if the builder did not tell how the command ended; set when gone is closed
	done chan struct{} // closed when all of stderr has come too
	err  error         // what Wait returns; set when done is closed

	closing        chan struct{} // closed by Close
	closed         sync.Once
	ended          atomic.Bool // CloseWrite was called
	sent, received atomic.Int64

	// Reads and writes of the channel are a goroutine's each, which Close need not wait for.
	fetched chan []byte // stdout, piece by piece; closed at its end
	last    []byte      // the last of them, and what is unread of it; the reader's
	unread  []byte
	taken   chan []byte // pieces that were read, to be filled again
	piece   []byte      // what is being written; the writer's, and the goroutine's while it writes
	writes  chan []byte
	written chan error
}

// pieceSize is how much of stdin is handed to the channel at a time, in bytes.
const pieceSize = 128 << 10

// exit is how a command ended.
type exit struct {
	status int
	signal string
}

func newSession(c *conn, ch xssh.Channel, stderr io.Writer) *Session {
	s := &Session{
		conn: c, ch: ch, stderr: stderr,
		gone: make(chan struct{}), done: make(chan struct{}), closing: make(chan struct{}),
		fetched: make(chan []byte), taken: make(chan []byte, 2), writes: make(chan []byte), written: make(chan error, 1),
	}
	for range cap(s.taken) {
		s.taken <- make([]byte, 32<<10)
	}
	return s
}

// Read reads the command's stdout. io.EOF is its end; when the connection ended instead it is an *[Error], and after
// Close it is [ErrClosed], so that nothing that was cut looks whole.
func (s *Session) Read(p []byte) (int, error) {
	if s.closedByUs() {
		return 0, ErrClosed
	}
	if len(s.unread) == 0 && len(p) > 0 {
		select {
		case piece, ok := <-s.fetched:
			if !ok {
				return 0, s.endOfStdout()
			}
			s.last, s.unread = piece, piece
		case <-s.closing:
			return 0, ErrClosed
		}
	}
	n := copy(p, s.unread)
	if s.unread = s.unread[n:]; len(s.unread) == 0 && n > 0 {
		s.taken <- s.last[:cap(s.last)]
	}
	s.received.Add(int64(n))
	return n, nil
}

// fetch reads stdout ahead of Read, two pieces at most.
func (s *Session) fetch() {
	defer close(s.fetched)
	for {
		var piece []byte
		select {
		case piece = <-s.taken:
		case <-s.closing:
			return
		}
		n, err := s.ch.Read(piece)
		if n > 0 {
			select {
			case s.fetched <- piece[:n]:
			case <-s.closing:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// endOfStdout tells whether the command has closed its stdout.
func (s *Session) endOfStdout() error {
	lost := s.conn.lost()
	if lost == nil {
		return io.EOF // a command may close its stdout and run on
	}
	<-s.gone
	if s.exit != nil {
		return io.EOF
	}
	return lost
}

func (s *Session) closedByUs() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// Write writes to the command's stdin. When the command has ended the error is what Wait returns, or io.ErrClosedPipe
// if that is nil.
func (s *Session) Write(p []byte) (int, error) {
	n := 0
	for len(p) > n {
		if s.closedByUs() {
			return n, ErrClosed
		}
		if s.ended.Load() {
			return n, io.ErrClosedPipe
		}
		s.piece = append(s.piece[:0], p[n:min(len(p), n+pieceSize)]...)
		select {
		case s.writes <- s.piece:
		case <-s.gone:
			return n, s.endOfStdin()
		case <-s.closing:
			return n, ErrClosed
		}
		select {
		case err := <-s.written:
			if err != nil {
				return n, s.endOfStdin()
			}
		case <-s.closing:
			return n, ErrClosed
		}
		n += len(s.piece)
		s.sent.Add(int64(len(s.piece)))
	}
	return n, nil
}

// put writes the pieces of stdin.
func (s *Session) put() {
	for {
		select {
		case piece := <-s.writes:
			_, err := s.ch.Write(piece)
			s.written <- err
		case <-s.gone:
			return
		case <-s.closing:
			return
		}
	}
}

// endOfStdin is why nothing can be written any more.
func (s *Session) endOfStdin() error {
	if s.closedByUs() {
		return ErrClosed
	}
	if lost := s.conn.lost(); lost != nil {
		return lost
	}
	<-s.done
	return cmp.Or(s.err, io.ErrClosedPipe)
}

// CloseWrite ends the command's stdin. A second call, or one after the command's end, does nothing.
func (s *Session) CloseWrite() error {
	if s.ended.Swap(true) {
		return nil
	}
	if err := s.ch.CloseWrite(); err != nil && !errors.Is(err, io.EOF) {
		return s.conn.broken(err)
	}
	return nil
}

// Close ends the session and every Read, Write and Wait of it, with [ErrClosed]. It does not wait. sshd closes the
// command's stdin and stdout, and does not kill it; if the command runs on for longer than Options.Silence, its place
// on the connection is given up. Its error is nil; a second Close does nothing.
func (s *Session) Close() error {
	s.closed.Do(func() { close(s.closing) })
	return nil
}

// Wait waits for the command's end and for all of its stderr. stdout must be read meanwhile, or a command that writes
// much never ends. It returns nil for exit status 0, an *[Error] otherwise, and [ErrClosed] after Close. It may be
// called any number of times.
func (s *Session) Wait() error {
	select {
	case <-s.done:
	case <-s.closing:
		if !s.over() {
			return ErrClosed
		}
	}
	return s.err
}

// over tells whether the session has ended and its result is known.
func (s *Session) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// serve follows a session to its end.
func (s *Session) serve(reqs <-chan *xssh.Request) {
	var helpers sync.WaitGroup
	helpers.Go(s.fetch)
	helpers.Go(s.put)
	helpers.Go(s.readStderr)
	lingers := make(chan bool, 1)
	helpers.Go(func() { lingers <- s.endWhenClosed() })
	for req := range reqs {
		if told := parseExit(req); told != nil {
			s.exit = told
		}
		if req.WantReply {
			_ = req.Reply(false, nil) // the connection's end is seen elsewhere
		}
	}
	close(s.gone)
	if !<-lingers {
		s.conn.pool.left(s.conn, s.exit != nil) // the next one need not wait for who reads stderr
	}
	helpers.Wait()
	s.err = s.result()
	close(s.done)
	if ended := s.conn.pool.opts.Trace.Ended; ended != nil {
		ended(s.sent.Load(), s.received.Load(), s.err)
	}
}

// endWhenClosed closes the channel after Close, and tells whether the command ran on, so that its place was given up.
func (s *Session) endWhenClosed() bool {
	select {
	case <-s.closing:
	case <-s.gone:
		return false
	}
	s.ch.Close() // it waits where the connection is stuck
	patience := time.NewTimer(s.conn.pool.opts.Silence)
	defer patience.Stop()
	select {
	case <-s.gone:
		return false
	case <-patience.C:
		s.conn.pool.linger(s.conn)
		return true
	}
}

// discard ends a session that was never handed out.
func (s *Session) discard(reqs <-chan *xssh.Request) {
	s.Close()
	s.serve(reqs)
}

func (s *Session) readStderr() {
	w := io.Writer(&s.tail)
	if s.stderr != nil {
		w = io.MultiWriter(&s.tail, s.stderr)
	}
	if _, err := io.Copy(w, s.ch.Stderr()); err != nil {
		_, _ = io.Copy(io.Discard, s.ch.Stderr()) // the writer is done for; the command is not to wait for it
	}
}

// parseExit reads the requests by which sshd tells a command's end; nil for others.
func parseExit(req *xssh.Request) *exit {
	switch req.Type {
	case "exit-status":
		var status struct{ Status uint32 }
		if xssh.Unmarshal(req.Payload, &status) == nil {
			return &exit{status: int(status.Status)}
		}
	case "exit-signal":
		var signal struct {
			Signal     string
			CoreDumped bool
			Error      string
			Language   string
		}
		if xssh.Unmarshal(req.Payload, &signal) == nil {
			return &exit{status: -1, signal: signal.Signal}
		}
	}
	return nil
}

// result is what Wait returns.
func (s *Session) result() error {
	host, e := s.conn.pool.host.Name, s.exit
	if e == nil {
		if s.closedByUs() {
			return ErrClosed
		}
		if lost := s.conn.lost(); lost != nil {
			return lost
		}
		return &Error{Kind: Exited, Host: host, Status: -1, Reason: "the command ended without a status", Stderr: s.tail.String()}
	}
	if e.status == 0 {
		return nil
	}
	err := &Error{Kind: Exited, Host: host, Status: e.status, Signal: e.signal, Stderr: s.tail.String()}
	switch {
	case e.signal != "":
		err.Reason = "signal " + e.signal + " ended the command"
	case e.status == 127:
		err.Kind, err.Reason = CommandNotFound, "there is no such command (exit status 127)"
		err.Hint = "is Nix installed there, and on the PATH of sessions that are not interactive? remote-program names it by its path"
	default:
		err.Reason = fmt.Sprintf("the command ended with exit status %d", e.status)
	}
	return err
}

// tail keeps the end of what is written to it. One goroutine writes, and reads when that is over.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if n >= stderrKept {
		t.kept, p = t.kept[:0], p[n-stderrKept:]
	}
	if over := len(t.kept) + len(p) - stderrKept; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	t.kept = append(t.kept, p...)
	return n, nil
}

func (t *tail) String() string { return strings.TrimSpace(strings.ToValidUTF8(string(t.kept), "?")) }
