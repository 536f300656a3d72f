package httpstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// Options are the settings of a [Store]. nil and the zero value are the defaults. They are copied.
type Options struct {
	// StoreDir is the directory of the cache's paths. "": /nix/store. Paths of another are not accepted.
	StoreDir string

	// TrustedKeys are the keys of which one must have signed a path. With none only paths are accepted that prove
	// themselves by their content address (see the package comment).
	TrustedKeys signing.Keyring
	// InsecureIgnoreSignatures accepts every path, whoever signed it. It contradicts TrustedKeys.
	InsecureIgnoreSignatures bool

	// Authorization gives the value of the Authorization header, "" for none: see [Basic], [Bearer] and [Netrc].
	// It is called for each request and must be safe for concurrent use. nil: the login in the URL, if there is one.
	// It is sent to the cache's own host alone.
	Authorization func(ctx context.Context) (string, error)

	// Priority takes the place of the one in the cache's nix-cache-info. 0: that one.
	Priority int

	// Transport sends the requests. nil: one of the store's own, with a time limit for each step of connecting.
	// The store's own time limits hold for either.
	Transport http.RoundTripper

	// LookupBudget is how long a look-up may take, its request included. 0: 2 s.
	LookupBudget time.Duration
	// StallTimeout is how long an archive's request may go without a byte from the cache. 0: 30 s.
	StallTimeout time.Duration

	// PositiveTTL is how long a path's metadata are believed without asking again; the cache is then asked whether
	// they have changed. 0: 5 min. Negative: each look-up asks.
	PositiveTTL time.Duration
	// NegativeTTL is how long a path stays absent: because the cache said so, or because what it has of it is not
	// acceptable or was found damaged. 0: 30 s. Negative: not at all.
	NegativeTTL time.Duration
	// StaleIfError is for how long after PositiveTTL metadata are still good when the cache cannot be asked. 0: 24 h.
	// Negative: not at all.
	StaleIfError time.Duration
	// CacheBytes bounds the memory of metadata, present and absent. 0: 16 MiB.
	CacheBytes int64

	// Resumes is how often one archive's transfer is taken up again where it was cut. 0: 5. Negative: never.
	Resumes int

	// FailuresToOpen is how many requests must fail in a row before no more are made for a while. 0: 5.
	FailuresToOpen int
	// MinBackoff is how long that is for the first time, and MaxBackoff for the last: it doubles each time that the
	// one request which is then tried fails too, and is made shorter at random by up to a half. 0: 1 s and 1 min.
	MinBackoff, MaxBackoff time.Duration

	// TempDir is where an archive lies while parts of it are read out of order. "": [os.TempDir].
	TempDir string

	// Logger receives paths that are damaged or not trusted (Warn), and when the cache is given up for a while and
	// found again (Warn, Info). nil discards them. Other errors go to the caller alone.
	Logger *slog.Logger
	// Trace is told what happens. nil: nobody is.
	Trace *Trace
}

// Result is how a look-up ended.
type Result string

// The results of look-ups.
const (
	ResultCached  Result = "cached"  // answered from memory
	ResultFound   Result = "found"   // by asking the cache, which also means: still valid
	ResultAbsent  Result = "absent"  // says the cache, or not acceptable
	ResultStale   Result = "stale"   // an error, but there was an old answer
	ResultFailed  Result = "failed"  // an error
	ResultRefused Result = "refused" // no request was made, for the cache has failed too often
)

// Trace has functions that are called, if not nil, by the goroutine that does the work. They must be quick and safe for
// concurrent use.
type Trace struct {
	// Lookup is called once for each request for metadata, however many callers wait for it, and for each answer from
	// memory, which takes no time.
	Lookup func(r Result, d time.Duration)
	// Opened is called when the cache is given up (true) and when it answers again (false).
	Opened func(open bool)
	// Resumed is called when a cut transfer is to be taken up again.
	Resumed func()
	// Damaged is called when the bytes of a path were not what its metadata promise.
	Damaged func(path narinfo.StorePath)
}

func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.InsecureIgnoreSignatures && len(c.TrustedKeys) > 0 {
		return c, errors.New("httpstore: trusted keys, and signatures ignored")
	}
	if c.FailuresToOpen < 0 || c.CacheBytes < 0 || c.Priority < 0 || c.LookupBudget < 0 || c.StallTimeout < 0 ||
		c.MinBackoff < 0 || c.MaxBackoff < 0 {
		return c, errors.New("httpstore: a setting is negative that must not be")
	}
	if c.StoreDir == "" {
		c.StoreDir = narinfo.DefaultStoreDir
	}
	if _, err := narinfo.NewStorePath(c.StoreDir, "00000000000000000000000000000000-x"); err != nil {
		return c, fmt.Errorf("httpstore: store directory: %w", err)
	}
	orDefault(&c.LookupBudget, 2*time.Second)
	orDefault(&c.StallTimeout, 30*time.Second)
	orDefault(&c.PositiveTTL, 5*time.Minute)
	orDefault(&c.NegativeTTL, 30*time.Second)
	orDefault(&c.StaleIfError, 24*time.Hour)
	orDefault(&c.MinBackoff, time.Second)
	orDefault(&c.MaxBackoff, max(time.Minute, c.MinBackoff))
	orDefault(&c.CacheBytes, 16<<20)
	orDefault(&c.Resumes, 5)
	orDefault(&c.FailuresToOpen, 5)
	if c.MaxBackoff < c.MinBackoff {
		return c, fmt.Errorf("httpstore: the longest back-off %v is shorter than the first %v", c.MaxBackoff, c.MinBackoff)
	}
	if c.Transport == nil {
		c.Transport = newTransport()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Trace == nil {
		c.Trace = new(Trace)
	}
	return c, nil
}

// orDefault sets what is zero.
func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// newTransport is the standard library's default with room for many look-ups over HTTP/1.1, and without decoding behind
// our back. Connections are not limited: a look-up that waited for a download to end would be taken for a failure.
func newTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
	}
}
