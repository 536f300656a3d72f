package httpcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/internal/narfile"
)

// DefaultReadStall is how long an upload may bring nothing before it is cut off, unless Options say otherwise.
const DefaultReadStall = time.Minute

// deniedError is a request without the right that it needs. 401 asks for a credential, 403 says that there is one.
type deniedError struct {
	status   int
	sentence string // for the client: of its own credential alone, and never why
	cause    error  // for the log
}

const (
	needCredential = "a credential is needed"
	badCredential  = "the credential is not valid here, or not any more"
)

func (e deniedError) Error() string { return "denied: " + e.cause.Error() }

// authorize finds out who sends the request, once. Nobody in particular is nil.
func (a *answer) authorize() error {
	if a.h.opts.Access == nil {
		return nil
	}
	identity, err := a.h.opts.Access.Authorize(a.r)
	switch {
	case errors.Is(err, ErrNoCredential):
		return nil
	case errors.Is(err, ErrBadCredential):
		return deniedError{http.StatusUnauthorized, badCredential, err}
	case err != nil:
		return fmt.Errorf("%w: %w", errUnchecked, err)
	}
	a.identity = identity
	return nil
}

// demand fails unless whoever sends the request may do what scope says.
func (a *answer) demand(scope Scope) error {
	switch {
	case a.identity.Allows(scope, a.h.opts.Cache):
		return nil
	case a.identity == nil:
		return deniedError{http.StatusUnauthorized, needCredential, errors.New("no credential for " + scope.String())}
	}
	where := "at the root"
	if a.h.opts.Cache != "" {
		where = strconv.Quote(a.h.opts.Cache)
	}
	return deniedError{http.StatusForbidden, fmt.Sprintf("forbidden: this credential lacks the scope %s in the cache %s", scope, where),
		errors.New(a.identity.Name + " may not " + scope.String())}
}

// admit lets a request for reading pass. In a private cache who may read nothing is told nothing, of what exists neither:
// a credential is asked for whatever the URL.
func (a *answer) admit() error {
	if err := a.authorize(); err != nil {
		return err
	}
	if !a.h.opts.Private || a.kind == KindHealth {
		return nil
	}
	if a.identity.Allows(ScopeRead, a.h.opts.Cache) || a.identity.Allows(ScopePush, a.h.opts.Cache) {
		return nil
	}
	return a.demand(ScopeRead)
}

// mayPush reports whether the request is of somebody who may push here.
func (a *answer) mayPush() bool {
	return a.h.opts.Receiver != nil && a.identity.Allows(ScopePush, a.h.opts.Cache)
}

// require is authorize and demand: what a request that changes something begins with.
func (a *answer) require(scope Scope) error {
	if err := a.authorize(); err != nil {
		return err
	}
	return a.demand(scope)
}

// key is that of the file which the request's URL names.
func (a *answer) key() string { return strings.TrimPrefix(a.r.URL.Path, "/") }

// put takes an upload.
func (a *answer) put() error {
	if err := a.require(ScopePush); err != nil {
		return err
	}
	if hostile(a.key()) {
		return errMalformedPath
	}
	if a.kind == KindNAR && a.r.Header.Get("Content-Encoding") != "" {
		return errEncoding
	}
	content, end, err := a.upload()
	if err != nil {
		return err
	}
	defer end()
	told := &faultReader{r: content}
	err = a.h.opts.Receiver.Receive(a.r.Context(), a.identity.Name, a.key(), told)
	switch {
	case err != nil && told.err != nil:
		return fmt.Errorf("%w: %w", errBody, told.err)
	case err != nil:
		return err
	}
	a.sentence(http.StatusCreated, "stored")
	return nil
}

// faultReader remembers that a body could not be read, which is its sender's fault.
type faultReader struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (f *faultReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

// remove deletes a path.
func (a *answer) remove() error {
	if err := a.require(ScopeAdmin); err != nil {
		return err
	}
	if err := a.h.opts.Deleter.Delete(a.r.Context(), a.identity.Name, a.key()); err != nil {
		return err
	}
	a.sentence(http.StatusOK, "deleted")
	return nil
}

// Deleter deletes what was uploaded.
type Deleter interface {
	// Delete deletes the path whose narinfo has the key "HASHPART.narinfo", for by. One that is not there is
	// store.ErrNotFound; one that others refer to, or that is pinned, a store.RefusedError that names them.
	Delete(ctx context.Context, by, key string) error
}

// uploadReader reads a request's body, each read within a time. It hides what else the body can do.
type uploadReader struct {
	r       io.Reader
	control *http.ResponseController
	stall   time.Duration
	set     time.Time
}

// Read implements io.Reader. The deadline is moved at most once a second, for that costs a system call or two.
func (u *uploadReader) Read(p []byte) (int, error) {
	if now := time.Now(); u.stall > 0 && now.Sub(u.set) > time.Second {
		if err := u.control.SetReadDeadline(now.Add(u.stall + time.Second)); err == nil {
			u.set = now
		}
	}
	return u.r.Read(p)
}

func (u *uploadReader) end() {
	if !u.set.IsZero() {
		_ = u.control.SetReadDeadline(time.Time{})
	}
}

// holds answers a client that looks whether it has to upload an archive, if it has not.
func (a *answer) holds() (answered bool, err error) {
	if a.r.Method != http.MethodHead || a.kind != KindNAR {
		return false, nil
	}
	held, err := a.h.opts.Receiver.Holds(a.r.Context(), a.key())
	if err != nil || !held {
		return false, err
	}
	h := a.w.Header()
	h.Set("Content-Type", mimeNAR)
	h.Set("Cache-Control", cacheNever)
	a.writeHead(http.StatusOK)
	return true, a.finish()
}

// upload opens the request's body, decoded. end is called when no more is read from it.
func (a *answer) upload() (content io.Reader, end func(), err error) {
	body := &uploadReader{r: a.r.Body, control: http.NewResponseController(a.w), stall: a.h.opts.ReadStall}
	decoded, err := decodeContent(a.r.Header.Get("Content-Encoding"), body)
	if err != nil {
		body.end()
		return nil, nil, err
	}
	return decoded, func() {
		_ = decoded.Close()
		body.end()
	}, nil
}

// decodeContent decodes what Nix sends compressed, of all but archives: they are compressed by name.
func decodeContent(encoding string, body io.Reader) (io.ReadCloser, error) {
	compression, ok := map[string]string{"": "none", "identity": "none", "gzip": "gzip", "x-gzip": "gzip", "xz": "xz",
		"zstd": "zstd", "bzip2": "bzip2"}[encoding]
	if !ok {
		return nil, errEncoding
	}
	r, err := narfile.NewUploadDecoder(compression, body)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", errEncoded, err)
	}
	return r, nil
}
