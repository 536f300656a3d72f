package contest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/voidnxlab/nixtrap/bench/internal/proc"
	"github.com/voidnxlab/nixtrap/bench/internal/rawhttp"
	"github.com/voidnxlab/nixtrap/bench/internal/target"
	"github.com/voidnxlab/nixtrap/bench/internal/workload"
)

// Client is a server's contender: it asks it for paths.
type Client struct {
	// Std measures with net/http's client, as programs have it, instead of package rawhttp's, which costs next to nothing.
	// What a client costs hides differences between servers that share its machine.
	Std bool

	server *target.Server
	paths  []workload.Path

	requests [NAR + 1][]request // what a pass asks for, by its kind; made by Prepare
	logical  int64              // bytes of all NARs
}

// request is a URL and the answer that it must have.
type request struct {
	url    string
	status int
	length int64 // of the body
}

// NewClient makes a contender of a server, which stays the caller's to close.
func NewClient(server *target.Server, paths []workload.Path) *Client {
	return &Client{server: server, paths: paths}
}

// Name returns the server's name.
func (c *Client) Name() string { return c.server.Name }

// Runs reports true: a server runs every pass.
func (c *Client) Runs(Pass) bool { return true }

// settleTries is how often Prepare looks whether a server's answers have settled, twice a second.
const settleTries = 20

// Prepare fetches everything, decodes it and compares it with what the store says. Then it notes how long each answer is,
// as soon as that is the same twice: a server may learn of an archive's hash by the first request for it.
func (c *Client) Prepare(ctx context.Context) error {
	conn := c.server.Connect()
	defer conn.Close()
	c.logical = 0
	for _, p := range c.paths {
		if err := verify(ctx, conn, c.server.Path, p); err != nil {
			return fmt.Errorf("%w\n%s", err, c.server.Log())
		}
		c.logical += p.NarSize
	}
	var before [NAR + 1][]request
	for range settleTries {
		if err := c.plan(ctx, conn); err != nil {
			return err
		}
		if slices.Equal(before[Narinfo], c.requests[Narinfo]) && slices.Equal(before[NAR], c.requests[NAR]) {
			return nil
		}
		before = c.requests
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second / 2):
		}
	}
	return errors.New("the answers are never twice of the same length")
}

// plan asks for everything and notes how long the answers are.
func (c *Client) plan(ctx context.Context, conn *rawhttp.Conn) error {
	c.requests = [NAR + 1][]request{}
	random := rand.New(rand.NewPCG(7, 7))
	for _, p := range c.paths {
		name := c.server.Path + "/" + p.HashPart() + ".narinfo"
		info, size, err := getNarinfo(ctx, conn, name, p)
		if err != nil {
			return err
		}
		c.requests[Narinfo] = append(c.requests[Narinfo], request{name, http.StatusOK, size})
		url := c.server.Path + "/" + info.URL
		for _, r := range []request{
			{url, http.StatusOK, 0}, {c.server.Path + "/" + absentHash(random) + ".narinfo", http.StatusNotFound, 0},
		} {
			if r.length, err = fetch(ctx, conn, r.url, r.status); err != nil {
				return err
			}
			kind := NAR
			if r.status == http.StatusNotFound {
				kind = Absent
			}
			c.requests[kind] = append(c.requests[kind], r)
		}
	}
	return nil
}

// absentHash is the hash part of no path.
func absentHash(random *rand.Rand) string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	var b [32]byte
	for i := range b {
		b[i] = digits[random.IntN(len(digits))]
	}
	return string(b[:])
}

// fetch gets a URL, drops the body and returns its length.
func fetch(ctx context.Context, conn *rawhttp.Conn, url string, status int) (int64, error) {
	r, err := conn.Get(ctx, url)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", url, err)
	}
	n, err := conn.Discard()
	if err != nil {
		return n, fmt.Errorf("%s: %w", url, err)
	}
	if r.Status != status {
		return n, fmt.Errorf("%s: status %d, not %d", url, r.Status, status)
	}
	return n, nil
}

// fetcher gets what a request asks for over a connection of its own, drops the body and returns its length.
type fetcher func(context.Context, request) (int64, error)

func stdFetcher(base string, client *http.Client) fetcher {
	return func(ctx context.Context, r request) (int64, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+r.url, nil)
		if err != nil {
			return 0, err
		}
		req.Header.Set("Accept-Encoding", "identity") // as it is, not unpacked here
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != r.status {
			return 0, fmt.Errorf("%s: status %d, not %d", r.url, resp.StatusCode, r.status)
		}
		return io.Copy(io.Discard, resp.Body)
	}
}

// Measure runs a pass: all connections take from one queue of requests.
func (c *Client) Measure(ctx context.Context, p Pass) (Sample, error) {
	fetchers := make([]fetcher, p.Connections)
	for i := range fetchers {
		if c.Std {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			fetchers[i] = stdFetcher("http://"+c.server.Addr, &http.Client{Transport: transport})
			continue
		}
		conn := c.server.Connect()
		defer conn.Close()
		if err := conn.Dial(ctx); err != nil {
			return Sample{}, err
		}
		fetchers[i] = func(ctx context.Context, r request) (int64, error) { return fetch(ctx, conn, r.url, r.status) }
	}
	q := queue{requests: c.requests[p.Kind], total: int64(len(c.paths) * p.Repeat)}
	before, err := c.cpu()
	if err != nil {
		return Sample{}, err
	}
	start := time.Now()
	if err := q.run(ctx, fetchers); err != nil {
		return Sample{}, err
	}
	s := Sample{Time: time.Since(start), Requests: int(q.total), Wire: q.wire.Load()}
	if p.Kind == NAR {
		s.Logical = c.logical * int64(p.Repeat)
	}
	after, err := c.cpu()
	s.CPU = after - before
	return s, err
}

func (c *Client) cpu() (time.Duration, error) {
	if c.server.PID == 0 {
		return 0, nil
	}
	return proc.CPU(c.server.PID)
}

// queue is requests that several connections work off, over and over until there were total.
type queue struct {
	requests []request
	total    int64
	next     atomic.Int64
	wire     atomic.Int64
}

func (q *queue) run(ctx context.Context, fetchers []fetcher) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, fetch := range fetchers {
		group.Go(func() error { return q.work(ctx, fetch) })
	}
	return group.Wait()
}

func (q *queue) work(ctx context.Context, fetch fetcher) error {
	for i := q.next.Add(1) - 1; i < q.total && ctx.Err() == nil; i = q.next.Add(1) - 1 {
		r := q.requests[int(i)%len(q.requests)]
		n, err := fetch(ctx, r)
		if err != nil {
			return err
		}
		if n != r.length {
			return fmt.Errorf("%s: %d bytes, not %d", r.url, n, r.length)
		}
		q.wire.Add(n)
	}
	return ctx.Err()
}
