package store

import (
	"context"
	"io"
)

// Receiver is a store that takes what Nix's binary-cache clients upload, file by file, under the keys of [FileOpener]
// and "HASHPART.narinfo".
type Receiver interface {
	// Receive takes the file that belongs under key, which by uploads. It reads content to its end, which only a bare
	// io.EOF is, checks all of it, and when it returns nil the file is there, durably. Otherwise nothing of it can be
	// seen. What is refused is a [RefusedError]; an error of content is returned wrapped; any other error means that the
	// store could not do it, and that it may be tried again.
	//
	// An archive must be decodable, as its key says, and its name be its hash. A narinfo is taken after its archive, from
	// the same uploader's cache, and after those of all that it refers to.
	Receive(ctx context.Context, by, key string, content io.Reader) error

	// Holds reports whether an archive need not be uploaded: whether its key was received whole before, and is kept for
	// the time that a client takes to come with the narinfo.
	Holds(ctx context.Context, key string) (bool, error)
}

// RefusedError says that a store does not take what it was given. It names no secret, and is for who gave it.
type RefusedError struct {
	Why    Refusal
	Detail string // one sentence
}

// Error implements error.
func (e *RefusedError) Error() string { return "store: refused: " + e.Detail }

// Refusal is why something is refused: a small closed set.
type Refusal uint8

// The refusals.
const (
	Invalid    Refusal = iota // it is not what its name or its metadata says, or malformed
	TooLarge                  // it exceeds a limit
	Incomplete                // its archive or its references have to come first
	Untrusted                 // no signature that this store asks for
	Needed                    // others refer to it, or something keeps it
	Full                      // there is no room
	Busy                      // something else happens to it just now: come again in a moment
)
