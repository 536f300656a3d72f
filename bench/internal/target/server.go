// Package target starts the servers that are measured: narserved, nginx over a flat cache, and other cache servers whose
// programs are on the machine.
//
// A [Program] says how a server is started; [Start] starts it on a free port of the loopback and waits until it answers.
package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/voidnxlab/nixtrap/bench/internal/rawhttp"
)

// startLimit is how long a server may take to its first answer.
const startLimit = 30 * time.Second

// Program is a server that can be started.
type Program struct {
	Name string
	// Command prepares the server, listening on addr (HOST:PORT), with dir, an empty folder, for its state.
	// The command must stay in the foreground, and end at SIGTERM.
	Command func(ctx context.Context, addr, dir string) (*exec.Cmd, error)
	// URL is of a server that runs already. Command is not used then, and there are no CPU figures.
	URL string
}

// Server is a running server. It is safe for concurrent use, except for Close.
type Server struct {
	Name string
	Addr string // HOST:PORT
	Path string // what comes before each path that it is asked for; "" usually
	PID  int    // 0: it isn't ours
	// Started is the moment before its start.
	Started time.Time

	cmd *exec.Cmd
	log *tail
	dir string
}

// Start starts a program and waits until it answers. It ends with ctx, or with Close, which must be called.
func Start(ctx context.Context, p Program) (*Server, error) {
	if p.URL != "" {
		return running(p)
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &Server{Name: p.Name, Addr: addr, log: &tail{}}
	if s.dir, err = os.MkdirTemp("", "shootout-"); err != nil {
		return nil, err
	}
	if s.cmd, err = p.Command(ctx, addr, s.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("target: %s: %w", p.Name, err), os.RemoveAll(s.dir))
	}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 5 * time.Second
	s.Started = time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("target: %s: %w", p.Name, err), os.RemoveAll(s.dir))
	}
	s.PID = s.cmd.Process.Pid
	if err := s.waitForAnswer(ctx); err != nil {
		closed := s.Close() // only when it has ended is its log whole
		return nil, errors.Join(fmt.Errorf("target: %s: %w; it said:\n%s", p.Name, err, s.log.String()), closed)
	}
	return s, nil
}

func running(p Program) (*Server, error) {
	rest, ok := strings.CutPrefix(p.URL, "http://")
	addr, path, _ := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
	if _, _, err := net.SplitHostPort(addr); !ok || err != nil {
		return nil, fmt.Errorf("target: %s: %q is not http://HOST:PORT[/PATH]", p.Name, p.URL)
	}
	if path != "" {
		path = "/" + path
	}
	return &Server{Name: p.Name, Addr: addr, Path: path, log: &tail{}}, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func (s *Server) waitForAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		err := s.answers(ctx)
		if err == nil {
			return nil
		}
		if s.cmd.Process.Signal(syscall.Signal(0)) != nil || ended(s.PID) {
			return errors.New("it ended instead of serving")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w", err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// ended tells a process that nobody has waited for yet from one that runs.
func ended(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false // no /proc here
	}
	_, rest, _ := bytes.Cut(text, []byte(") "))
	return len(rest) > 0 && rest[0] == 'Z'
}

func (s *Server) answers(ctx context.Context) error {
	c := s.Connect()
	defer c.Close()
	r, err := c.Get(ctx, s.Path+"/nix-cache-info")
	if err != nil {
		return err
	}
	if r.Status != http.StatusOK {
		return fmt.Errorf("nix-cache-info: status %d", r.Status)
	}
	_, err = c.Discard()
	return err
}

// Connect makes a connection, which dials at its first request. The caller closes it.
func (s *Server) Connect() *rawhttp.Conn { return rawhttp.New(s.Addr, s.Addr) }

// Log returns the end of what the server said.
func (s *Server) Log() string { return s.log.String() }

// Close stops the server and removes its folder. A second Close does nothing.
func (s *Server) Close() error {
	if s.cmd == nil || s.cmd.Process == nil {
		return nil
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // how it ends tells nothing: many servers exit with 1 at SIGTERM
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-done
	}
	s.cmd = nil
	return os.RemoveAll(s.dir)
}

// tail keeps the end of a log.
type tail struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if len(t.text) > 2*tailSize {
		t.text = append(t.text[:0], t.text[len(t.text)-tailSize:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
