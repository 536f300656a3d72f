// Package store says what a Nix store is, independent of where it lives.
//
// A [Store] is two methods: look a path's metadata up by its hash part, and open its NAR.
// Everything else a store may be able to do is an optional interface with a free function of the same name that uses
// it where the store has it and falls back, or fails with [ErrUnsupported], where it has not.
//
// # Contract of every store
//
// All methods are safe for concurrent use.
// A path (log, realisation, file) that is not there is an error for which errors.Is(err, [ErrNotFound]) is true;
// any other error means that the store could not tell, and must never be answered as absence.
// Info never answers from a cache that a deletion or a rebuild of the path would not invalidate.
// Stores do not retry: their callers decide.
// The driver verifies: a reader from Open, OpenRange or OpenFile returns io.EOF only if what it yielded is proved to
// be the bytes that the metadata promises; where the proof fails, the last bytes are withheld and Read returns an
// error for which errors.Is(err, [ErrCorrupt]) is true.
package store

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"time"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
)

var (
	// ErrNotFound reports that the store does not hold what was asked for.
	ErrNotFound = errors.New("store: not found")
	// ErrCorrupt reports that stored bytes are not what the store's metadata promises.
	ErrCorrupt = errors.New("store: content does not match its metadata")
	// ErrUnsupported reports that a store lacks an optional ability.
	ErrUnsupported = errors.ErrUnsupported
)

// Store is a set of store paths with their metadata and archives.
type Store interface {
	// StoreDir returns the directory in the store's paths, "/nix/store" for most.
	StoreDir() string

	// Info returns the metadata of the path with the given hash part.
	// The caller owns the result.
	// URL, Compression, FileHash and FileSize are set only by stores that keep archives as files (see [FileOpener]).
	Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error)

	// Open returns the path's NAR, uncompressed, exactly info.NarSize bytes long.
	// info is what Info returned; if the store no longer holds that very content the error is ErrNotFound.
	// The caller closes the reader. A reader may implement io.WriterTo where that is faster.
	Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error)
}

// RangeOpener is a store that can read a part of a NAR without reading what precedes it.
type RangeOpener interface {
	// OpenRange returns bytes [offset, offset+length) of the path's NAR.
	// A range that does not lie within info.NarSize is an error.
	OpenRange(ctx context.Context, info *narinfo.Info, offset, length int64) (io.ReadCloser, error)
}

// LayoutOpener is a store that knows a path's table of contents without reading its archive.
type LayoutOpener interface {
	Layout(ctx context.Context, info *narinfo.Info) (*nar.Layout, error)
}

// File is a stored file, open for reading.
type File struct {
	io.ReadSeekCloser
	Size    int64 // -1: not known yet; a Seek relative to the end then waits until it is, or fails
	ModTime time.Time

	// Hash is that of the whole file. Zero: not known.
	Hash narinfo.Hash

	// Source is the file that ReadSeekCloser reads, so that its bytes may be copied by the kernel. Its offset is the
	// reader's. It is not to be closed. nil: there is none, or what is read from it would not be proved.
	Source *os.File

	// Check must be called, and return nil, before the last bytes that were read from Source are let go: only then
	// are they proved. nil: there is nothing to check.
	Check func() error
}

// ArchiveOpener is a store that keeps archives compressed, as files, and hands them out undecoded.
type ArchiveOpener interface {
	// OpenArchive returns the file at info.URL as it is, compressed with info.Compression,
	// proved to be info.FileHash (where info has none: to decode to info.NarHash).
	// A path whose Info has no URL is one of which no archive is kept: that is ErrUnsupported.
	OpenArchive(ctx context.Context, info *narinfo.Info) (*File, error)
}

// FileOpener is a store that keeps files under keys as a plain Nix binary cache does ("nar/FILEHASH.nar.xz",
// "log/….drv", "realisations/….doi", "debuginfo/…", "HASHPART.ls") and hands them out as they are.
type FileOpener interface {
	// OpenFile returns the stored file. key is relative, slash-separated and clean.
	// A key below nar/ is found only if it names its own hash, which is then proved.
	OpenFile(ctx context.Context, key string) (*File, error)
}

// LogOpener is a store that keeps build logs.
type LogOpener interface {
	// OpenLog returns the log of the derivation, decoded. drv is its whole path.
	OpenLog(ctx context.Context, drv narinfo.StorePath) (io.ReadCloser, error)
}

// Referrers is a store that knows who refers to a path.
type Referrers interface {
	// Referrers yields the valid paths whose references include path, path itself excepted, ordered by path.
	Referrers(ctx context.Context, path narinfo.StorePath) iter.Seq2[narinfo.StorePath, error]
}

// Lister is a store that can enumerate its paths.
type Lister interface {
	// Paths yields the valid paths, ordered by path.
	Paths(ctx context.Context) iter.Seq2[narinfo.StorePath, error]
}

// Derivers is a store that knows which outputs a derivation has produced here.
type Derivers interface {
	// DerivedPaths yields the valid paths whose deriver is drv.
	DerivedPaths(ctx context.Context, drv narinfo.StorePath) iter.Seq2[narinfo.StorePath, error]
}

// Quarantined is a path that a store has and does not serve, because its content is not what its metadata promises.
type Quarantined struct {
	Path   narinfo.StorePath
	Since  time.Time
	Reason string // for people
}

// DebugInfoFinder is a store that can find separate debug files by build id.
type DebugInfoFinder interface {
	// DebugInfo returns the path that holds lib/debug/.build-id/XX/YYYY.debug for the build id XXYYYY (lower-case hex),
	// and that member's name.
	DebugInfo(ctx context.Context, buildID string) (path narinfo.StorePath, member string, err error)
}

// RealisationOpener is a store that knows what content-addressed derivations were realised to.
type RealisationOpener interface {
	// Realisation returns the JSON text of the realisation with the given id, "sha256:BASE16!OUTPUT".
	Realisation(ctx context.Context, id string) ([]byte, error)
}
