package httpcache

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/internal/buffer"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
)

const (
	// DefaultPriority is better than the 40 of cache.nixos.org, for clients ask the lowest number first and a cache
	// in one's own network is nearer. It is also what nix-serve and harmonia say.
	DefaultPriority = 30
	// DefaultWriteStall is long enough for a laptop to change networks.
	DefaultWriteStall = time.Minute
)

// Options are the settings of a [Handler]. The zero value, like nil, serves every path, unsigned.
type Options struct {
	// Keys sign every narinfo that is served, besides the signatures that the store has.
	// Content-addressed paths are signed too, as Nix does: a client that cannot check the address can check the key.
	Keys []*signing.SecretKey

	// Priority is what nix-cache-info says; clients ask caches with lower numbers first. 0: [DefaultPriority].
	Priority int

	// NoMassQuery asks clients not to look up paths in bulk (nix-env -qas).
	NoMassQuery bool

	// Policy limits what is served. A path that it does not allow is answered exactly as one that does not exist.
	// nil: everything.
	Policy Policy

	// PublicURL is where clients reach this cache, for the page at /, such as "https://cache.example.org".
	// "": the page takes the address of the request.
	PublicURL string

	// WriteStall is how long a client may take to accept the next 256 KiB of an answer before it is cut off.
	// It works through [http.ResponseController.SetWriteDeadline], and for as long as an answer of this handler is
	// written replaces the server's WriteTimeout. 0: [DefaultWriteStall]; negative: no limit of ours.
	WriteStall time.Duration

	// Artefacts compresses the archives of paths that the store keeps no archive of. nil: they are served as they are.
	Artefacts Artefacts

	// Access finds out who sends a request. nil: nobody is known, so nothing can be uploaded, and nothing is private.
	Access Authorizer

	// Cache is this cache's name, for the rights that identities have: see [Identity].
	Cache string

	// Private answers only those who may read or push, and others with 401 or 403, whatever they ask for.
	Private bool

	// Receiver takes uploads (PUT) of those who may push. nil: nothing is taken.
	Receiver store.Receiver

	// NoUploads is the sentence that those get who upload where there is no Receiver. "": "method not allowed".
	NoUploads string

	// Pushers is what those who may push see in place of the handler's store: what was uploaded, and nothing of what
	// could be fetched from elsewhere. nil: they see the same as all.
	Pushers store.Store

	// Deleter deletes paths (DELETE) for those with the scope admin. nil: nothing can be deleted.
	Deleter Deleter

	// ReadStall is how long an upload may bring nothing before it is cut off. 0: [DefaultReadStall]; negative: no limit.
	ReadStall time.Duration

	// Logger gets our faults at Error and the clients' at Debug. nil: nothing is logged.
	Logger *slog.Logger

	// Trace is told what happens. nil: nobody is.
	Trace *Trace
}

// Handler answers the requests of Nix's binary-cache clients. It is safe for concurrent use.
type Handler struct {
	store    store.Store
	opts     Options
	log      *slog.Logger
	info     []byte // nix-cache-info
	narinfos narinfoWriter
	buffers  sync.Pool // of *[firstBlock]byte
	large    buffer.Pool
	pushers  *Handler // over Options.Pushers; nil without
}

var _ http.Handler = (*Handler)(nil)

// New returns a Handler over s, which stays the caller's to close. opts are copied; nil means the zero Options.
// It reads nothing from s but its StoreDir.
func New(s store.Store, opts *Options) (*Handler, error) {
	h := &Handler{store: s, log: slog.New(slog.DiscardHandler)}
	if opts != nil {
		h.opts = *opts
		h.opts.Keys = slices.Clone(opts.Keys)
	}
	if h.opts.Logger != nil {
		h.log = h.opts.Logger
	}
	if h.opts.Priority == 0 {
		h.opts.Priority = DefaultPriority
	}
	if h.opts.WriteStall == 0 {
		h.opts.WriteStall = DefaultWriteStall
	}
	if h.opts.ReadStall == 0 {
		h.opts.ReadStall = DefaultReadStall
	}
	if err := h.opts.check(); err != nil {
		return nil, err
	}
	info, err := h.cacheInfoText()
	if err != nil {
		return nil, fmt.Errorf("httpcache: %w", err)
	}
	h.info, h.narinfos.keys = info, h.opts.Keys
	h.buffers.New = func() any { return new([firstBlock]byte) }
	if h.opts.Pushers == nil {
		return h, nil
	}
	own := h.opts
	own.Pushers = nil
	h.pushers, err = New(h.opts.Pushers, &own)
	return h, err
}

func (o *Options) check() error {
	if o.Priority < 0 {
		return fmt.Errorf("httpcache: priority %d is negative", o.Priority)
	}
	if o.Access == nil && (o.Private || o.Receiver != nil || o.Deleter != nil) {
		return errors.New("httpcache: a private cache, uploads and deletions need Access")
	}
	names := make(map[string]bool)
	for _, k := range o.Keys {
		if k == nil {
			return errors.New("httpcache: a signing key is nil")
		}
		if names[k.Name()] {
			return fmt.Errorf("httpcache: two signing keys are named %q", k.Name())
		}
		names[k.Name()] = true
	}
	if o.Artefacts != nil && !validEncoder(o.Artefacts.Encoder()) {
		return fmt.Errorf("httpcache: encoder %q is not 1 to 16 lower-case letters and digits", o.Artefacts.Encoder())
	}
	if o.PublicURL == "" {
		return nil
	}
	u, err := url.Parse(o.PublicURL)
	if err == nil && u.User != nil {
		return errors.New("httpcache: the public URL holds a user name")
	}
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.RawQuery != "" {
		return fmt.Errorf("httpcache: public URL %q is not http(s)://HOST[/PATH]", o.PublicURL)
	}
	return nil
}

// ServeHTTP answers one request. It panics with [http.ErrAbortHandler] where an answer that has begun cannot be ended.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := &answer{h: h, w: w, r: r, start: time.Now()}
	defer a.done()
	a.serve()
}
