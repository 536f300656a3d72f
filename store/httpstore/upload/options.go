package upload

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// Compression is how archives are sent.
type Compression string

// The compressions.
const (
	Zstd Compression = "zstd"
	None Compression = "none"
)

// Options are the settings of a [Client]. nil and the zero value are the defaults. They are copied.
type Options struct {
	// Authorization gives the value of the Authorization header, "" for none: see [httpstore.Bearer], Basic and Netrc of
	// the same package. It is called for each request and must be safe for concurrent use. nil: the login in the URL.
	//
	// [httpstore.Bearer]: https://pkg.go.dev/github.com/voidnxlab/nixtrap/store/httpstore#Bearer
	Authorization func(ctx context.Context) (string, error)

	// Compression is that of archives. "": as the store keeps them, else [Zstd].
	Compression Compression

	// Keys sign what is pushed, besides the signatures that the store has.
	Keys []*signing.SecretKey

	// Jobs is how many paths are under way at a time; each may use a core to compress. 0: 4.
	Jobs int

	// Transport sends the requests. nil: one of the client's own. The client's time limits hold for either.
	Transport http.RoundTripper

	// StallTimeout is how long a request may go without taking a byte or answering. 0: 2 min.
	StallTimeout time.Duration

	// Attempts is how often a request is made before its path is given up. 0: 6.
	Attempts int
	// MinBackoff is the first pause between two attempts, and MaxBackoff the longest. 0: 500 ms and 30 s.
	MinBackoff, MaxBackoff time.Duration

	// TempDir is where archives lie while they are sent. "": [os.TempDir].
	TempDir string

	// Trace is told what happens. nil: nobody is.
	Trace *Trace
}

// Trace has functions that are called, if not nil, by the goroutine that does the work. They must be quick and safe for
// concurrent use.
type Trace struct {
	// Planned is called when it is known what a Push has to do: the whole closure, and what of it is missing, each path
	// after all that it refers to. It may be called a second time, with what is still missing.
	Planned func(closure, missing []*narinfo.Info)
	// Sent is called while a path's archive is sent: sent bytes of size have been handed to the connection. sent begins
	// anew when the request is made again.
	Sent func(path narinfo.StorePath, sent, size int64)
	// Done is called when a path is published, or has failed.
	Done func(path narinfo.StorePath, err error)
	// Retry is called before the pause after which a request is made again because of err.
	Retry func(path narinfo.StorePath, err error, pause time.Duration)
}

func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.Jobs < 0 || c.Attempts < 0 || c.StallTimeout < 0 || c.MinBackoff < 0 || c.MaxBackoff < 0 {
		return c, errors.New("upload: a setting is negative")
	}
	switch c.Compression {
	case "", Zstd, None:
	default:
		return c, errors.New("upload: the compression is neither zstd nor none")
	}
	orDefault(&c.Jobs, 4)
	orDefault(&c.Attempts, 6)
	orDefault(&c.StallTimeout, 2*time.Minute)
	orDefault(&c.MinBackoff, 500*time.Millisecond)
	orDefault(&c.MaxBackoff, max(30*time.Second, c.MinBackoff))
	if c.Transport == nil {
		c.Transport = newTransport(c.Jobs)
	}
	if c.Trace == nil {
		c.Trace = &Trace{}
	}
	return c, nil
}

func orDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

func newTransport(jobs int) *http.Transport {
	dialer := &net.Dialer{Timeout: 15 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: jobs + probes, TLSHandshakeTimeout: 15 * time.Second, IdleConnTimeout: 90 * time.Second,
		WriteBufferSize: 64 << 10, DisableCompression: true,
	}
}

// parseURL reads the cache's URL.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("upload: malformed URL") // its text may hold a password
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("upload: the cache's URL is not http(s)://HOST[/PATH]")
	}
	return u, nil
}
