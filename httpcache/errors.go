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
	errMalformedStore   inputError = "malformed store path"
	errMalformedMissing inputError = `the body is not {"paths":["HASHPART or store path", …]}`
	errEncoding         inputError = "this Content-Encoding is not taken here: none, gzip, xz, zstd, bzip2, and none for archives"
	errBody             inputError = "the body ends early, or is not what its Content-Encoding says"
	errEncoded          inputError = "the body is not what its Content-Encoding says"
)

// errUnavailable is a store that cannot answer, found out by a health check.
var errUnavailable = errors.New("httpcache: the store cannot answer")

// errUnchecked is an Authorizer that could not tell, whose own error comes with it.
var errUnchecked = errors.New("httpcache: the credential cannot be checked")

// notFound is ErrNotFound, with a reason that only a log would see.
func notFound(format string, args ...any) error {
	return fmt.Errorf("%w: %s", store.ErrNotFound, fmt.Sprintf(format, args...))
}

// absent are the errors that a client sees as a path that is not there.
// Content that is not what its metadata says is one: a client then asks another cache.
var absent = []error{store.ErrNotFound, store.ErrCorrupt, store.ErrUnsupported, nar.ErrNotUTF8}

func isCorrupt(err error) bool { return errors.Is(err, store.ErrCorrupt) }

// refusals are what a client gets for each [store.Refusal]. The sentence that goes with it is the refusal's own: it is
// about what this client has sent.
var refusals = map[store.Refusal]int{
	store.Invalid: http.StatusBadRequest, store.TooLarge: http.StatusRequestEntityTooLarge,
	store.Incomplete: http.StatusConflict, store.Untrusted: http.StatusForbidden, store.Needed: http.StatusConflict,
	store.Full: http.StatusInsufficientStorage, store.Busy: http.StatusServiceUnavailable,
}

// statusOf is the one table from errors to what the client gets: a status and a fixed sentence.
func statusOf(err error) (status int, sentence string) {
	if in, ok := errors.AsType[inputError](err); ok {
		return http.StatusBadRequest, string(in)
	}
	if denied, ok := errors.AsType[deniedError](err); ok {
		return denied.status, denied.sentence
	}
	if refused, ok := errors.AsType[*store.RefusedError](err); ok {
		return refusals[refused.Why], refused.Detail
	}
	if errors.Is(err, errUnavailable) {
		return http.StatusServiceUnavailable, "unavailable"
	}
	if errors.Is(err, errUnchecked) {
		return http.StatusServiceUnavailable, "the credential cannot be checked now"
	}
	for _, e := range absent {
		if errors.Is(err, e) {
			return http.StatusNotFound, "not found"
		}
	}
	return http.StatusInternalServerError, "internal error"
}
