package upload

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Client pushes to one cache. It is safe for concurrent use.
type Client struct {
	base     *url.URL
	opts     Options
	client   *http.Client
	encoders encoders
}

// New returns a client of the cache at a URL, "https://HOST[/PATH]". It makes no request.
func New(cache string, o *Options) (*Client, error) {
	base, err := parseURL(cache)
	if err != nil {
		return nil, err
	}
	opts, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if user := base.User; user != nil && opts.Authorization != nil {
		return nil, errors.New("upload: a login in the URL, and another")
	}
	// A login in the URL stays there for net/http to send; it is shown nowhere.
	return &Client{base: base, opts: opts, client: &http.Client{
		Transport: opts.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// String returns the cache's URL, without a login.
func (c *Client) String() string {
	shown := *c.base
	shown.User = nil
	return shown.String()
}

// Close closes connections that wait for more requests. The client stays usable.
func (c *Client) Close() error {
	c.client.CloseIdleConnections()
	return nil
}

// Report is what a Push has done.
type Report struct {
	// Paths is how many paths the closure has.
	Paths int
	// Pushed are the paths that were published, each after all that it refers to.
	Pushed []narinfo.StorePath
	// Failed are the paths that were not, each with its reason. Those that refer to one that failed are among them, with
	// a [ReferenceError].
	Failed map[narinfo.StorePath]error
	// Complete says that each path of the closure was tried: it is in Failed, or in the cache. Without it, of a path that
	// is in neither list nothing is known.
	Complete bool
}

// Err is nil if nothing has failed. Otherwise it names what did for a reason of its own.
func (r *Report) Err() error {
	var all []error
	for _, path := range sortedKeys(r.Failed) {
		if _, consequence := errors.AsType[*ReferenceError](r.Failed[path]); !consequence {
			all = append(all, fmt.Errorf("%s: %w", path, r.Failed[path]))
		}
	}
	return errors.Join(all...)
}

// ReferenceError says that a path was not tried, because another has failed to which it refers.
type ReferenceError struct{ Reference narinfo.StorePath }

// Error implements error.
func (e *ReferenceError) Error() string {
	return fmt.Sprintf("upload: refers to %s, which has failed", e.Reference)
}

// Push makes the cache have the roots and all that they refer to, as s has them.
//
// The report is never nil, and says what was done in any case. The error is nil if nothing has failed, that of the
// report ([Report.Err]) if paths have, and otherwise the reason why nothing more was tried: ctx has ended, the closure
// could not be read, the server could not be asked what is missing, or denies it ([ErrDenied]).
func (c *Client) Push(ctx context.Context, s store.Store, roots ...narinfo.StorePath) (*Report, error) {
	report := &Report{Failed: make(map[narinfo.StorePath]error)}
	closure, err := store.Closure(ctx, s, roots...)
	if err != nil {
		return report, err
	}
	report.Paths = len(closure)
	for again := false; ; again = true {
		missing, err := c.Missing(ctx, closure)
		if err != nil {
			return report, err
		}
		if planned := c.opts.Trace.Planned; planned != nil {
			planned(closure, missing)
		}
		clear(report.Failed)
		if err := newRun(c, s, missing, report).push(ctx); err != nil {
			return report, err
		}
		if again || !report.overtaken() {
			report.Complete = true
			return report, report.Err()
		}
	}
}

// overtaken reports whether a path was refused because something has to come first, which then must have gone since.
func (r *Report) overtaken() bool {
	for _, err := range r.Failed {
		if status, ok := errors.AsType[*StatusError](err); ok && status.Status == http.StatusConflict {
			return true
		}
	}
	return false
}

// publish uploads a path's narinfo.
func (c *Client) publish(ctx context.Context, info *narinfo.Info) error {
	text, err := info.MarshalText()
	if err != nil {
		return err
	}
	return c.put(ctx, &request{method: http.MethodPut, path: string(info.StorePath.HashPart()) + ".narinfo",
		about: info.StorePath, header: http.Header{"Content-Type": {"text/x-nix-narinfo"}},
		size: int64(len(text)), body: bytesBody(text)})
}

// put makes a request that stores something.
func (c *Client) put(ctx context.Context, r *request) error {
	a, err := c.do(ctx, r)
	if err == nil && (a.status < 200 || a.status > 299) {
		err = r.failed(a)
	}
	return err
}

// exists asks whether a file is there.
func (c *Client) exists(ctx context.Context, about narinfo.StorePath, key string) (bool, error) {
	r := &request{method: http.MethodHead, path: key, about: about}
	a, err := c.do(ctx, r)
	if err != nil {
		return false, err
	}
	switch a.status {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound, http.StatusGone, http.StatusForbidden:
		return false, nil
	}
	return false, r.failed(a)
}

// published is info as the cache is to have it, with its archive.
func (c *Client) published(info *narinfo.Info, a *archive) *narinfo.Info {
	p := info.Clone()
	p.URL, p.Compression, p.FileHash, p.FileSize, p.Extra = a.key, a.compression, a.hash, a.size, nil
	for _, key := range c.opts.Keys {
		p.Sign(key)
	}
	return p
}

// pushArchive uploads a path's archive, and returns what is to be published.
func (c *Client) pushArchive(ctx context.Context, s store.Store, info *narinfo.Info) (*narinfo.Info, error) {
	a, err := c.pack(ctx, s, info)
	if err != nil {
		return nil, err
	}
	defer a.close()
	if err := c.sendArchive(ctx, info.StorePath, a); err != nil {
		return nil, err
	}
	return c.published(info, a), nil
}
