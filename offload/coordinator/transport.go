package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	xssh "golang.org/x/crypto/ssh"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/ssh"
)

// SSH is a [Transport] over package ssh: a pool for each machine, by its name. Its zero value is ready.
type SSH struct {
	// Options are those of all pools. A machine's agent goes before theirs. nil: the defaults.
	Options *ssh.Options

	mu    sync.Mutex // guards pools
	pools map[string]*ssh.Pool
}

// Close ends all connections.
func (s *SSH) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, p := range s.pools {
		errs = append(errs, p.Close())
	}
	s.pools = nil
	return errors.Join(errs...)
}

// Open implements [Transport].
func (s *SSH) Open(
	ctx context.Context, m *offload.Machine, command string, stderr io.Writer,
) (io.ReadWriteCloser, error) {
	p, err := s.pool(m)
	if err != nil {
		return nil, err
	}
	session, err := p.Open(ctx, command, stderr)
	if err != nil {
		return nil, err
	}
	return conn{session}, nil
}

// conn tells the command's failure where its output ends.
type conn struct{ *ssh.Session }

// Read implements io.Reader.
func (c conn) Read(p []byte) (int, error) {
	n, err := c.Session.Read(p)
	if n == 0 && errors.Is(err, io.EOF) {
		if failed := c.Wait(); failed != nil {
			return 0, failed
		}
	}
	return n, err
}

// Breaker implements [Transport].
func (s *SSH) Breaker(m *offload.Machine) offload.Breaker {
	s.mu.Lock()
	p := s.pools[m.Name]
	s.mu.Unlock()
	if p == nil {
		return offload.BreakerClosed
	}
	switch s := p.Status(); s.State {
	case ssh.Suspended, ssh.Probing: // the pool tries by itself: no build is needed for that
		if s.LastError.Kind == ssh.HostKey || s.LastError.Kind == ssh.Authentication {
			return offload.BreakerBarred
		}
		return offload.BreakerOpen
	}
	return offload.BreakerClosed
}

// pool returns a machine's, which is made if need be.
func (s *SSH) pool(m *offload.Machine) (*ssh.Pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pools[m.Name]; p != nil {
		return p, nil
	}
	host := &ssh.Host{Name: m.Name, Line: m.Source, Address: m.Host, Port: m.Port, User: m.User}
	if m.Identity != "" {
		host.KeyFiles = []string{m.Identity}
	}
	if m.HostKey != "" {
		key, _, _, _, err := xssh.ParseAuthorizedKey([]byte(m.HostKey))
		if err != nil {
			return nil, fmt.Errorf("coordinator: the host key of %s: %w", m.Name, err)
		}
		host.HostKeys = []xssh.PublicKey{key}
	}
	var options ssh.Options
	if s.Options != nil {
		options = *s.Options
	}
	if m.Agent != "" {
		options.Agent = m.Agent
	}
	p, err := ssh.NewPool(host, &options)
	if err != nil {
		return nil, err
	}
	if s.pools == nil {
		s.pools = make(map[string]*ssh.Pool)
	}
	s.pools[m.Name] = p
	return p, nil
}
