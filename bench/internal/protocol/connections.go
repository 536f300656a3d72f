package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/bench/internal/rawhttp"
)

var connectionChecks = []check{
	{"connections outlive errors", checkKeepAlive},
	{"a transfer that is cut is resumed", checkResume},
	{"a slow reader gets everything", checkSlowReader},
}

// checkKeepAlive: with a connection for each miss, Nix would be slower by a round trip each.
func checkKeepAlive(ctx context.Context, s *session) error {
	_ = s.conn.Close()
	before := s.conn.Dials
	i := s.items[0]
	for range 3 {
		for _, url := range []string{"/nix-cache-info", "/" + absentPart + ".narinfo", narinfoURL(i.path), "/nothing/here"} {
			if _, err := s.get(ctx, url); err != nil {
				return err
			}
		}
		if _, err := s.do(ctx, "HEAD", i.narURL()); err != nil {
			return err
		}
		if _, err := s.get(ctx, i.narURL(), "Range: bytes=99999999999999-"); err != nil {
			return err
		}
	}
	if n := s.conn.Dials - before; n != 1 {
		return fmt.Errorf("%d requests took %d connections", 18, n)
	}
	return nil
}

// checkResume fetches an archive through a proxy that cuts each connection, and goes on where it was cut, as Nix does.
func checkResume(ctx context.Context, s *session) error {
	i, whole, err := s.ranged(ctx)
	if err != nil {
		return err
	}
	size := len(whole.body)
	if size < 4096 {
		return skip("the largest path has only %d bytes", size)
	}
	proxy, err := newCuttingProxy(s.addr, int64(size/5+1024))
	if err != nil {
		return err
	}
	defer proxy.Close()
	conn := s.dial(proxy.addr())
	defer conn.Close()
	var got []byte
	for range 60 {
		part, err := s.resume(ctx, conn, i, whole, len(got))
		got = append(got, part...)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return err
		}
		var wrong wrongAnswer
		if errors.As(err, &wrong) {
			return err
		}
		_ = conn.Close()
	}
	if string(got) != string(whole.body) {
		return fmt.Errorf("after resuming: %d bytes, which are not the archive's %d", len(got), size)
	}
	return nil
}

// wrongAnswer is an answer that Nix would give up at.
type wrongAnswer struct{ error }

// resume reads an archive from an offset on, as far as it comes.
func (s *session) resume(ctx context.Context, conn *rawhttp.Conn, i *item, whole *answer, from int) ([]byte, error) {
	if err := conn.Dial(ctx); err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	status, headers := 200, []string(nil)
	if from > 0 {
		status, headers = 206, []string{fmt.Sprintf("Range: bytes=%d-", from)}
	}
	r, err := conn.Get(ctx, s.prefix+i.narURL(), headers...)
	if err != nil {
		return nil, err
	}
	if r.Status != status {
		return nil, wrongAnswer{fmt.Errorf("resuming at %d: status %d, not %d", from, r.Status, status)}
	}
	return io.ReadAll(io.LimitReader(conn, int64(len(whole.body)-from)+1))
}

// cuttingProxy passes connections on and cuts each after so many bytes of answers.
type cuttingProxy struct {
	listener net.Listener
	to       string
	after    int64
	group    sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]bool // guarded by mu
	closed bool              // guarded by mu
}

func newCuttingProxy(to string, after int64) (*cuttingProxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &cuttingProxy{listener: l, to: to, after: after, open: make(map[net.Conn]bool)}
	p.group.Go(p.accept)
	return p, nil
}

func (p *cuttingProxy) addr() string { return p.listener.Addr().String() }

// Close cuts everything and waits for its end.
func (p *cuttingProxy) Close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.open {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.group.Wait()
}

func (p *cuttingProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.group.Go(func() { p.pass(client) })
	}
}

// track notes a connection to be closed with the proxy; false if that is closed already.
func (p *cuttingProxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[c] = true
	return !p.closed
}

func (p *cuttingProxy) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.track(client) || !p.track(server) {
		return
	}
	p.group.Go(func() { _, _ = io.Copy(server, client) })
	_, _ = io.CopyN(client, server, p.after)
}

// checkSlowReader reads a little at a time, and then the rest.
func checkSlowReader(ctx context.Context, s *session) error {
	i, whole, err := s.archive(ctx)
	if err != nil {
		return err
	}
	r, err := s.begin(ctx, "GET", i.narURL())
	if err != nil {
		return err
	}
	if r.Status != 200 {
		return fmt.Errorf("%s: status %d", i.narURL(), r.Status)
	}
	slowly := s.Slowly
	if slowly == 0 {
		slowly = 3 * time.Second
	}
	got := make([]byte, 0, len(whole.body))
	turn := time.NewTicker(slowly / 20)
	defer turn.Stop()
	for range 20 {
		n, err := io.ReadFull(s.conn, got[len(got):min(len(got)+1024, cap(got))])
		got = got[:len(got)+n]
		if err != nil {
			return fmt.Errorf("a slow reader is cut after %d bytes: %w", len(got), err)
		}
		if len(got) == cap(got) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-turn.C:
		}
	}
	rest, err := io.ReadAll(s.conn)
	if err != nil {
		return fmt.Errorf("a slow reader is cut after %d bytes: %w", len(got)+len(rest), err)
	}
	if string(append(got, rest...)) != string(whole.body) {
		return fmt.Errorf("a slow reader gets other bytes than a quick one")
	}
	return nil
}
