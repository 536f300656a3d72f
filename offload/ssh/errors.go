package ssh

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrClosed reports that the pool, or the session by its own Close, was closed.
var ErrClosed = errors.New("ssh: closed")

// Kind is what went wrong, from a closed set.
type Kind string

// The kinds of an [Error].
const (
	// Unreachable: no address, no route, or no answer in time, of TCP or of the handshake.
	Unreachable Kind = "unreachable"
	// Refused: nothing listens there, or the connection was closed before sshd said who it is.
	Refused Kind = "refused"
	// NotSSH: something answers that does not speak SSH as we do.
	NotSSH Kind = "not ssh"
	// HostKey: the builder's key is unknown, another than was known, or revoked; or a file of keys can't be read.
	HostKey Kind = "host key"
	// Authentication: no key of ours that can be used, or none that the builder accepts.
	Authentication Kind = "authentication"
	// SessionLimit: sshd refuses every session.
	SessionLimit Kind = "session limit"
	// Lost: a connection that worked was cut or fell silent.
	Lost Kind = "lost"
	// CommandNotFound: the builder has no such command (exit status 127).
	CommandNotFound Kind = "command not found"
	// Exited: the command ended with another status than 0, by a signal, or without telling.
	Exited Kind = "exited"
)

// Error is why a builder can't be used, or how a command there ended. It is what all functions of a pool and its
// sessions return, but for [ErrClosed], a context's error (wrapped) and io.EOF.
type Error struct {
	// Kind is what went wrong.
	Kind Kind
	// Host is the builder's name.
	Host string
	// Reason says what happened, and Hint what to do about it, "" if there is nothing to say.
	Reason, Hint string
	// Status is the command's exit status, for CommandNotFound and Exited; -1 without one.
	Status int
	// Signal is the signal that ended the command, "TERM", or "".
	Signal string
	// Stderr is the end of what the command wrote there, 4 KiB at most. It is text from the builder.
	Stderr string
	// RetryAt is when the next attempt to connect is made, if none was for this error: the breaker is open.
	RetryAt time.Time

	cause error
}

// Error is one line, or more where the command wrote to stderr.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "ssh: builder %q: %s", e.Host, e.Reason)
	if e.Stderr != "" {
		fmt.Fprintf(&b, "; it wrote %q", e.Stderr)
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	if !e.RetryAt.IsZero() {
		fmt.Fprintf(&b, " (next attempt in %s)", max(0, time.Until(e.RetryAt)).Round(100*time.Millisecond))
	}
	return b.String()
}

// Unwrap returns the network's or the system's error below it, nil if there is none.
func (e *Error) Unwrap() error { return e.cause }

// suspended is the error of an Open that the breaker answered.
func (e *Error) suspended(until time.Time) *Error {
	again := *e
	again.RetryAt = until
	return &again
}
