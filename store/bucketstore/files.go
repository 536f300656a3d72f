package bucketstore

import (
	"context"
	"io"
	"iter"
	"time"
)

// Files is where a bucket's files lie: a directory, or an S3-compatible bucket (package store/bucketstore/s3).
// Keys are relative, slash-separated and clean. Files is safe for concurrent use, and retries nothing but what its own
// protocol calls for.
type Files interface {
	// Open opens the file under key, at its beginning. Where there is none the error is [store.ErrNotFound]; any other
	// error means that it could not be told. The caller closes the object.
	Open(ctx context.Context, key string) (Object, error)

	// Put makes what content yields the file under key, all or nothing: others see what was there before or all of the
	// new, and of a Put that fails nothing stays. When it returns nil the file outlives a crash. size is how many bytes
	// content yields, -1 where that is not known. An error of content is returned wrapped, and only a bare io.EOF is its
	// end.
	Put(ctx context.Context, key string, content io.Reader, size int64) (State, error)

	// Remove removes the file under key, durably. That there is none is no error.
	Remove(ctx context.Context, key string) error

	// List yields the files whose keys begin with prefix, in no certain order. It may miss or yield what is put or
	// removed meanwhile, and nothing else.
	List(ctx context.Context, prefix string) iter.Seq2[Entry, error]
}

// Object is an open file. It is not safe for concurrent use.
type Object interface {
	io.ReadSeekCloser

	// State returns the file's present state. Bytes read since Open are those of the state at Open if it is still that.
	State() (State, error)
}

// State is what tells one content of a file from another.
type State struct {
	Size     int64
	Modified time.Time

	// Version changes whenever the content does. It is a comparable value of the Files's own.
	Version any

	// Unsettled says that the content may still change without another Version, for it changed a moment ago.
	Unsettled bool
}

// Entry is one file of a list.
type Entry struct {
	Key      string
	Size     int64
	Modified time.Time
}
