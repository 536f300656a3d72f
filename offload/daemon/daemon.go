package daemon

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/voidnxlab/nixtrap/offload"
)

// Protocol is what a machine's Nix is spoken to in.
type Protocol string

// The protocols. The empty one is not known yet.
const (
	Worker Protocol = "worker"
	Serve  Protocol = "serve"
)

// Run starts a command on the machine and returns its standard input and output; what it prints on its standard error is
// written to stderr, if that is not nil, on another goroutine. A command that failed is an error where its output ends.
// Close ends it, and ends a blocked Read or Write. ctx governs the start alone.
type Run func(ctx context.Context, command string, stderr io.Writer) (io.ReadWriteCloser, error)

// Open connects to a machine's Nix. It tells in which protocol that is spoken to, which is known for the next time. If
// known is empty the daemon is tried first, and must say its first word before ctx ends.
func Open(ctx context.Context, m *offload.Machine, known Protocol, run Run) (io.ReadWriteCloser, Protocol, error) {
	if m.Scheme == "ssh" && len(m.RemoteProgram) > 0 {
		known = Serve
	}
	switch known {
	case Worker:
		conn, err := run(ctx, daemonCommand(m), nil)
		return conn, Worker, err
	case Serve:
		conn, err := openServe(ctx, m, run)
		return conn, Serve, err
	}
	conn, err := run(ctx, daemonCommand(m), nil)
	if err != nil {
		return nil, "", err
	}
	greeted, refused := greet(ctx, conn)
	if refused == nil {
		return greeted, Worker, nil
	}
	if ctx.Err() != nil {
		return nil, "", fmt.Errorf("daemon: %s of %s says nothing: %w", daemonCommand(m), m.Name, refused)
	}
	if conn, err = openServe(ctx, m, run); err != nil {
		return nil, "", fmt.Errorf("daemon: %s has no %s: %w; and no %s: %w", m.Name, daemonCommand(m), refused, serveCommand(m), err)
	}
	return conn, Serve, nil
}

func daemonCommand(m *offload.Machine) string {
	return command(m.RemoteProgram, "nix-daemon") + " --stdio"
}

func serveCommand(m *offload.Machine) string {
	var program []string
	if m.Scheme == "ssh" {
		program = m.RemoteProgram
	}
	return command(program, "nix-store") + " --serve --write"
}

func command(program []string, otherwise string) string {
	if len(program) == 0 {
		return otherwise
	}
	words := make([]string, len(program))
	for i, word := range program {
		words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}

// The first words of the worker protocol.
const (
	clientMagic = 0x6e697863
	daemonMagic = 0x6478696f
	wordSize    = 8
)

// greeted is a connection on which both sides have said their first words.
type greeted struct {
	io.ReadWriteCloser
	unread []byte // of what the daemon said
	unsaid []byte // of what the client will say again
}

// greet tells whether a daemon is at the other end. If it is not, conn is closed.
func greet(ctx context.Context, conn io.ReadWriteCloser) (*greeted, error) {
	g := &greeted{ReadWriteCloser: conn}
	g.unsaid = binary.LittleEndian.AppendUint64(nil, clientMagic)
	g.unread = make([]byte, wordSize)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	_, err := conn.Write(g.unsaid)
	if _, heard := io.ReadFull(conn, g.unread); heard != nil {
		err = heard // it tells more of why nothing can be written
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if word := binary.LittleEndian.Uint64(g.unread); err == nil && word != daemonMagic {
		err = fmt.Errorf("it begins with %q", g.unread)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return g, nil
}

// Read implements io.Reader.
func (g *greeted) Read(p []byte) (int, error) {
	if len(g.unread) > 0 {
		n := copy(p, g.unread)
		g.unread = g.unread[n:]
		return n, nil
	}
	return g.ReadWriteCloser.Read(p)
}

// Write implements io.Writer.
func (g *greeted) Write(p []byte) (int, error) {
	again := min(len(p), len(g.unsaid))
	if string(p[:again]) != string(g.unsaid[:again]) {
		return 0, fmt.Errorf("daemon: %q is no greeting of the worker protocol", p[:again])
	}
	g.unsaid = g.unsaid[again:]
	if again == len(p) {
		return again, nil
	}
	n, err := g.ReadWriteCloser.Write(p[again:])
	return again + n, err
}
