package nixproto

import (
	"errors"
	"fmt"
)

var (
	// ErrProtocol reports that the other side sent what the protocol does not allow, or more than a limit allows.
	ErrProtocol = errors.New("protocol violated")
	// ErrVersion reports that the other side is older than 1.32 (2.5 for the serve protocol), or of another major version.
	ErrVersion = errors.New("protocol version not supported")
	// ErrClosed reports the use of a connection or pool after its Close.
	ErrClosed = errors.New("closed")
)

// RemoteError is a failure that the daemon reports. All its text is data from outside.
type RemoteError struct {
	Type    string   // "Error" from every daemon known
	Level   uint64   // Nix's verbosity level of the message, 0 being an error
	Message string   // may span lines and hold terminal escapes
	Trace   []string // what the daemon was doing, innermost last
}

// Error returns the message, quoted; the trace is left out.
func (e *RemoteError) Error() string { return fmt.Sprintf("daemon: %q", e.Message) }
