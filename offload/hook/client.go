package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
)

// Client is a Decider that asks a coordinator, by HTTP on a unix socket. It is safe for concurrent use.
// Each question is a connection of its own; how long it may take is the context's.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client of the coordinator that listens on the socket. It does not connect.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: http.Client{
		Transport: &http.Transport{
			DialContext:            dial,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxValue,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Decide asks the coordinator.
func (c *Client) Decide(ctx context.Context, settings Settings, try *Try) (*Answer, error) {
	body, err := json.Marshal(newRequest(settings, try))
	if err != nil {
		return nil, fmt.Errorf("hook: %v", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://coordinator"+DecidePath, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("hook: %v", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("hook: coordinator: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("hook: coordinator at %s answers %s", c.socket, resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("hook: coordinator: %v", err)
	}
	if len(text) > maxAnswer {
		return nil, fmt.Errorf("hook: coordinator at %s answers more than %d bytes", c.socket, maxAnswer)
	}
	answer := new(Answer)
	if err := json.Unmarshal(text, answer); err != nil {
		return nil, fmt.Errorf("hook: coordinator at %s: %v", c.socket, err)
	}
	return answer, nil
}
