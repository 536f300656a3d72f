package catalog

import (
	"errors"
	"fmt"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
)

var (
	// ErrNotFound says that there is nothing of that name.
	ErrNotFound = errors.New("catalog: not found")

	// ErrDeleting says that what was asked for is just being deleted: come again in a while.
	ErrDeleting = errors.New("catalog: being deleted")

	// ErrPublishing says that the path is just being published, and with other content: come again in a while.
	ErrPublishing = errors.New("catalog: being published with other content")

	// ErrNoArchive says that the cache has not uploaded an archive, or that it was deleted since. It does not tell whether
	// another cache has it.
	ErrNoArchive = errors.New("catalog: the cache has not uploaded this archive")

	// ErrLeaseLost says that a lease ran out before the work under it was done, and that somebody else has undone it.
	ErrLeaseLost = errors.New("catalog: the lease ran out")

	// ErrNotEmpty says that a catalog that is to be filled holds something already.
	ErrNotEmpty = errors.New("catalog: not empty")
)

// DatabaseError is a failure of the database, or of the way to it. Unless a method says otherwise it may or may not have
// done what it was called for, and may be called again.
type DatabaseError struct{ Err error }

// Error implements error.
func (e *DatabaseError) Error() string { return "catalog: database: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *DatabaseError) Unwrap() error { return e.Err }

// MissingError says which references of a path are neither live in its cache nor elsewhere.
type MissingError struct {
	Path    narinfo.StorePath
	Missing []narinfo.StorePath // sorted, never empty
}

// Error implements error. It names the first ten.
func (e *MissingError) Error() string {
	const most = 10
	var names []string
	for _, p := range e.Missing[:min(len(e.Missing), most)] {
		names = append(names, string(p))
	}
	text := fmt.Sprintf("catalog: %s refers to what is not there: %s", e.Path, strings.Join(names, ", "))
	if n := len(e.Missing) - most; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

// MismatchError says that a narinfo, or a second upload of an archive, is not what is known of the archive.
type MismatchError struct {
	Key         string // the archive's
	Field       string // "NarHash", "NarSize", "FileHash", "FileSize" or "Compression"
	Known, Said string
}

// Error implements error.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("catalog: the %s of %q is %s, not %q", e.Field, e.Key, e.Known, e.Said)
}

// KeptError says what keeps a path from being deleted.
type KeptError struct {
	Path      narinfo.StorePath
	Referrers []narinfo.StorePath // that are in the way, sorted; at most a hundred
	Pins      []string            // names, sorted
	Leased    bool
}

// Error implements error.
func (e *KeptError) Error() string {
	var reasons []string
	if len(e.Pins) > 0 {
		reasons = append(reasons, fmt.Sprintf("pinned as %q", e.Pins))
	}
	if len(e.Referrers) > 0 {
		reasons = append(reasons, fmt.Sprintf("referred to by %s", e.Referrers))
	}
	if e.Leased {
		reasons = append(reasons, "leased to an upload or download")
	}
	return fmt.Sprintf("catalog: %s is %s", e.Path, strings.Join(reasons, " and "))
}

// LockedError says who holds a lock.
type LockedError struct{ Name, Holder string }

// Error implements error.
func (e *LockedError) Error() string {
	return fmt.Sprintf("catalog: lock %q is held by %s", e.Name, e.Holder)
}
