package nixproto

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
)

const (
	defaultMaxRequest = 64 << 20
	serverBuffer      = 64 << 10 // bytes that are read ahead of the handler
)

// ServerOptions say what a server is. nil and the zero value are the same.
type ServerOptions struct {
	// NixVersion is announced to the client; "" means "nixtrap". Some clients show it.
	NixVersion string

	// Trust is announced to the client, and held to: see [AddHandler] and [BuildHandler].
	// TrustUnknown announces nothing and is held to as NotTrusted; stock Nix, told nothing, supposes that it is trusted.
	Trust Trust

	// MaxVersion is the newest version to speak; zero means 1.38. Older than 1.32 is an error.
	MaxVersion Version

	// MaxRequest bounds the bytes of one request without its NARs; 0 means 64 MiB.
	MaxRequest int64

	// OnPanic hears of a handler's panic, with the stack of its goroutine. nil does not.
	OnPanic func(value any, stack []byte)
}

func (o *ServerOptions) complete() error {
	if o.MaxRequest < 0 {
		return fmt.Errorf("nixproto: MaxRequest is %d", o.MaxRequest)
	}
	if o.MaxRequest == 0 {
		o.MaxRequest = defaultMaxRequest
	}
	if o.Trust > NotTrusted {
		return fmt.Errorf("nixproto: trust %d is not known", o.Trust)
	}
	if o.NixVersion == "" {
		o.NixVersion = "nixtrap"
	}
	var err error
	o.MaxVersion, err = checkMaxVersion(o.MaxVersion)
	return err
}

// Session is a client that [Serve] serves.
type Session struct {
	options ServerOptions
	peer    Peer
	dec     *decoder
	handler Handler
	gone    context.CancelCauseFunc

	mu      sync.Mutex // guards all below
	enc     *encoder
	working bool // messages may be sent
}

// Peer returns what the client said of itself: Offered, Version and Features alone.
func (s *Session) Peer() Peer { return s.peer }

// Send passes an event on to the client, which shows it as its daemon's: a log line, an activity, a line of a build's log.
// Between operations, and behind the beginning of a NAR, there is no place for it and it is dropped.
// It is safe for concurrent use. It blocks while the client does not read, until the client leaves.
//
// As a Client's OnEvent, it lets a client see what goes on in the daemon behind this server.
// Activities of different daemons may have the same numbers.
func (s *Session) Send(ev Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.working {
		return
	}
	encodeEvent(s.enc, ev)
	if err := s.enc.flush(); err != nil {
		s.working = false
		s.gone(err)
	}
}

// Serve is a Nix daemon for the client at the other end of conn, until that leaves or ctx ends.
//
// In practice conn is the standard input and output of a program that stock Nix was told to start by
// `ssh-ng://localhost?remote-program=PROGRAM`, which it does without SSH. Or it is a connection of a unix socket.
// conn belongs to Serve and is closed by it; its Close must end a blocked Read.
//
// open is called once the client has said its version, and returns who answers it; an error is told to the client.
//
// The client is read ahead by at most 64 KiB, so that its leaving, or its closing of its sending side,
// is noticed at once while an operation runs, unless it has sent more than that which nobody has read.
// Serve waits for the handler's method to return, and leaves no goroutine.
// It returns nil when the client left between operations, [ErrProtocol] (wrapped) for a client that is none,
// and otherwise why it ended: the cause of ctx, an error of open or of the transport.
func Serve(
	ctx context.Context, conn io.ReadWriteCloser, open func(context.Context, *Session) (Handler, error), o *ServerOptions,
) error {
	s := &Session{enc: newEncoder(conn)}
	if o != nil {
		s.options = *o
	}
	if err := s.options.complete(); err != nil {
		_ = conn.Close()
		return err
	}
	ctx, s.gone = context.WithCancelCause(ctx)
	defer s.gone(nil)
	shut := sync.OnceValue(conn.Close)
	stop := context.AfterFunc(ctx, func() { _ = shut() })
	defer stop()

	ahead, fill := io.Pipe()
	s.dec = &decoder{r: bufio.NewReaderSize(ahead, serverBuffer)}
	var pump sync.WaitGroup
	pump.Go(func() { s.pump(conn, fill) })
	defer pump.Wait()
	defer ahead.Close()
	defer func() { _ = shut() }()

	err := s.serve(ctx, open)
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, ErrProtocol) {
		err = cause
	}
	return fmt.Errorf("nixproto: serve: %w", err)
}

// errLeft is why a session's context ends when its client has gone.
var errLeft = errors.New("client left")

// pump reads ahead, and ends the session when there is no more.
func (s *Session) pump(conn io.Reader, to *io.PipeWriter) {
	buf := make([]byte, serverBuffer/2)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			s.gone(fmt.Errorf("%w: %v", errLeft, err)) // first, so that it is known to whoever reads the end
			to.CloseWithError(err)
			return
		}
	}
}

func (s *Session) serve(ctx context.Context, open func(context.Context, *Session) (Handler, error)) error {
	if err := s.greet(ctx, open); err != nil {
		return err
	}
	for {
		if _, err := s.dec.r.Peek(1); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		s.dec.limit(uint64(s.options.MaxRequest))
		if err := s.perform(ctx, op(s.dec.uint64())); err != nil {
			return err
		}
	}
}

// greet is the server's side of a connection's beginning.
func (s *Session) greet(ctx context.Context, open func(context.Context, *Session) (Handler, error)) error {
	s.dec.limit(maxHandshake)
	if magic := s.dec.uint64(); s.dec.err == nil && magic != clientMagic {
		s.dec.fail("magic number %#x is not a Nix client's", magic)
	}
	if s.dec.err != nil {
		return s.dec.err
	}
	s.enc.uint64(serverMagic)
	s.enc.uint64(s.options.MaxVersion.word())
	if err := s.enc.flush(); err != nil {
		return err
	}
	if err := s.negotiate(); err != nil {
		return err
	}
	s.begin()
	err := s.guard(func() (err error) {
		if !s.peer.Version.AtLeast(minVersion.Major, minVersion.Minor) {
			return fmt.Errorf("%w: client speaks %v, need %v", ErrVersion, s.peer.Offered, minVersion)
		}
		s.handler, err = open(ctx, s)
		return err
	})
	if finished := s.finish(err); finished != nil {
		return finished
	}
	return err
}

// negotiate reads what a client says behind its magic number, and answers it.
func (s *Session) negotiate() error {
	word := s.dec.uint64()
	if word>>8 != uint64(maxVersion.Major) {
		s.dec.fail("%#x is no version", word)
	}
	s.peer.Offered = Version{uint8(word >> 8), uint8(word)}
	s.peer.Version = s.peer.Offered.atMost(s.options.MaxVersion)
	v := s.peer.Version
	if v.AtLeast(1, 38) {
		s.peer.Features = s.dec.strings()
		s.enc.strings(nil)
		if err := s.enc.flush(); err != nil {
			return err
		}
	}
	if v.AtLeast(1, 14) && s.dec.uint64() != 0 {
		s.dec.uint64() // processor affinity
	}
	if v.AtLeast(1, 11) {
		s.dec.uint64() // space reserved
	}
	if v.AtLeast(1, 33) {
		s.enc.string(s.options.NixVersion)
	}
	if v.AtLeast(1, 35) {
		s.enc.uint64(uint64(s.options.Trust))
	}
	return s.dec.err
}

// perform serves one operation. Its error ends the session.
func (s *Session) perform(ctx context.Context, o op) error {
	run := s.operation(o)
	if s.dec.err != nil {
		s.begin()
		_ = s.finish(s.dec.err)
		return s.dec.err
	}
	s.begin()
	var answer reply
	err := s.guard(func() (err error) {
		answer, err = run(ctx)
		return err
	})
	if s.dec.err != nil { // in frames
		_ = s.finish(s.dec.err)
		return s.dec.err
	}
	if finished := s.finish(err); finished != nil || err != nil {
		return finished
	}
	if answer != nil {
		return answer(s.enc)
	}
	return nil
}

// begin opens the place for messages.
func (s *Session) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working = true
}

// finish closes it, with the operation's failure if there is one. Once it is closed, that has been told.
func (s *Session) finish(failure error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.working {
		return nil
	}
	s.working = false
	if failure == nil {
		s.enc.uint64(msgLast)
	} else {
		encodeError(s.enc, asRemote(failure))
	}
	return s.enc.flush()
}

func asRemote(err error) *RemoteError {
	if remote, ok := errors.AsType[*RemoteError](err); ok {
		return remote
	}
	return &RemoteError{Message: err.Error()}
}

// guard makes a panic an error.
func (s *Session) guard(run func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			if s.options.OnPanic != nil {
				s.options.OnPanic(v, debug.Stack())
			}
			err = errors.New("internal error of the server")
		}
	}()
	return run()
}
