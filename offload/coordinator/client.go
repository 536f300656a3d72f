package coordinator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/shim"
)

// ErrUnavailable reports that there is no coordinator at the socket, or that it went away in the middle.
var ErrUnavailable = errors.New("no coordinator")

// Client asks a coordinator over its socket. It is safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

var _ shim.Desk = (*Client)(nil)

// NewClient returns a client for a unix socket. It makes no connection.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		IdleConnTimeout: time.Minute,
	}}
	return c
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return conn, nil
}

const base = "http://coordinator"

// ask sends a question and reads the answer.
func ask[T any](ctx context.Context, c *Client, method, path string, question any) (answer T, err error) {
	text, err := json.Marshal(question)
	if err != nil {
		return answer, err
	}
	r, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(text))
	if err != nil {
		return answer, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return answer, context.Cause(ctx)
		}
		return answer, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answer, refusal(resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&answer); err != nil {
		return answer, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return answer, nil
}

// maxAnswer bounds what is read of an answer: a thousand decisions among fifty machines.
const maxAnswer = 64 << 20

func refusal(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if why, ok := strings.CutPrefix(strings.TrimSpace(string(text)), shim.ErrNobody.Error()); ok && resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w%s", shim.ErrNobody, why)
	}
	if resp.StatusCode == http.StatusGone {
		return shim.ErrForgotten
	}
	return errors.New(strings.TrimSpace(string(text)))
}

// Take implements [shim.Desk].
func (c *Client) Take(ctx context.Context, program string) (*shim.Ticket, error) {
	return ask[*shim.Ticket](ctx, c, http.MethodPost, pathTake, program)
}

// Place implements [shim.Desk].
func (c *Client) Place(ctx context.Context, w *shim.Wish) (*shim.Ticket, error) {
	return ask[*shim.Ticket](ctx, c, http.MethodPost, pathPlace, w)
}

// Look implements [shim.Desk].
func (c *Client) Look(ctx context.Context, machine string) (offload.Readings, error) {
	return ask[offload.Readings](ctx, c, http.MethodPost, pathLook, machine)
}

// Settle implements [shim.Desk].
func (c *Client) Settle(ctx context.Context, r *shim.Report) error {
	_, err := ask[any](ctx, c, http.MethodPost, pathSettle, r)
	return err
}

// Where implements [shim.Desk].
func (c *Client) Where(ctx context.Context, output narinfo.StorePath) (*shim.Ticket, error) {
	return ask[*shim.Ticket](ctx, c, http.MethodPost, pathWhere, output)
}

// Status returns what runs where.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return ask[*Status](ctx, c, http.MethodGet, pathStatus, nil)
}

// Decisions returns records, the latest first; of all derivations if drv is "".
func (c *Client) Decisions(ctx context.Context, drv string, limit int) ([]offload.Decision, error) {
	query := url.Values{"drv": {drv}, "limit": {strconv.Itoa(limit)}}
	return ask[[]offload.Decision](ctx, c, http.MethodGet, pathDecisions+"?"+query.Encode(), nil)
}

// Drain gives a machine no more builds for a time; 0 ends that.
func (c *Client) Drain(ctx context.Context, machine string, d time.Duration) error {
	_, err := ask[any](ctx, c, http.MethodPost, pathDrain, DrainRequest{machine, d})
	return err
}

// SetMode sets the mode for a time; 0 ends that.
func (c *Client) SetMode(ctx context.Context, mode offload.Mode, d time.Duration) error {
	_, err := ask[any](ctx, c, http.MethodPost, pathMode, ModeRequest{mode, d})
	return err
}

// Open implements [shim.Desk]: a connection of its own becomes that to the builder's daemon.
func (c *Client) Open(ctx context.Context, t *shim.Ticket) (io.ReadWriteCloser, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	up, err := upgrade(conn, t)
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return up, nil
}

func upgrade(conn net.Conn, t *shim.Ticket) (io.ReadWriteCloser, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest(http.MethodPost, base+pathOpen, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", upgradeTo)
	if err := r.Write(conn); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return &upgraded{conn, in}, nil
}

// upgraded reads first what came with the answer.
type upgraded struct {
	net.Conn
	in *bufio.Reader
}

// Read implements io.Reader.
func (u *upgraded) Read(p []byte) (int, error) { return u.in.Read(p) }
