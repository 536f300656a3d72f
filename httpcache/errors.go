package httpcache

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/store"
)

// inputError is a request that no state of the store could answer. Its text is the sentence that the client gets.
type inputError string

func (e inputError) Error() string { return string(e) }

const (
	errMalformedPath    inputError = "malformed path"
	errMalformedHash    inputError = "malformed hash part"
	errMalformedNAR     inputError = "malformed NAR name"
	errMalformedDrv     inputError = "malformed derivation name"
	errMalformedID      inputError = "malformed realisation id"
	errMalformedBuildID inputError = "malformed build id"
)

// errUnavailable is a store that cannot answer, found out by a health check.
var errUnavailable = errors.New("httpcache: the store cannot answer")

// notFound is ErrNotFound, with a reason that only a log would see.
func notFound(format string, args ...any) error {
	return fmt.Errorf("%w: %s", store.ErrNotFound, fmt.Sprintf(format, args...))
}

// absent are the errors that a client sees as a path that is not there.
// Content that is not what its metadata says is one: a client then asks another cache.
var absent = []error{store.ErrNotFound, store.ErrCorrupt, store.ErrUnsupported, nar.ErrNotUTF8}

func isCorrupt(err error) bool { return errors.Is(err, store.ErrCorrupt) }

// statusOf is the one table from errors to what the client gets: a status and a fixed sentence.
func statusOf(err error) (status int, sentence string) {
	if in, ok := errors.AsType[inputError](err); ok {
		return http.StatusBadRequest, string(in)
	}
	if errors.Is(err, errUnavailable) {
		return http.StatusServiceUnavailable, "unavailable"
	}
	for _, e := range absent {
		if errors.Is(err, e) {
			return http.StatusNotFound, "not found"
		}
	}
	return http.StatusInternalServerError, "internal error"
}
