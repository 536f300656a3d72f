// Package pgtest runs a real PostgreSQL server for tests, from Debian's packages, without a network port.
//
// [Start] makes one in a folder of its own and [Server.Database] an empty database in it.
// A test that asks for a server where none is installed is skipped with a line that says so;
// with NIXTRAP_REQUIRE_NIX set it fails instead.
package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// starting is how long a server may take until it answers.
const starting = 60 * time.Second

// Server is a running PostgreSQL server, which listens on a Unix socket alone. Its one user is postgres.
// Methods other than Database are not safe for concurrent use.
type Server struct {
	bin       string
	dir       string // holds the data and the socket
	owner     *syscall.Credential
	cmd       *exec.Cmd
	exited    chan struct{} // closed when it has ended
	databases atomic.Int64
}

// Start starts a server that the test's end stops.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{bin: binaries()}
	if s.bin == "" {
		missing(t, "no PostgreSQL here: apt-get install postgresql")
	}
	if os.Geteuid() == 0 {
		s.owner = unprivileged(t)
	}
	var err error
	// Not t.TempDir: the name of a socket has at most 107 bytes, and the folder changes hands.
	if s.dir, err = os.MkdirTemp("", "pgtest-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(s.dir); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	if s.owner != nil {
		if err := os.Chown(s.dir, int(s.owner.Uid), int(s.owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t, "initdb", "--pgdata", s.data(), "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
	s.start(t)
	t.Cleanup(func() { s.stop(t, syscall.SIGINT) })
	return s
}

// Database makes an empty database and returns the URL of a connection to it.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", s.databases.Add(1))
	s.run(t, "createdb", "--host", s.dir, "--username=postgres", name)
	return "postgres://postgres@/" + name + "?host=" + url.QueryEscape(s.dir)
}

// Restart ends the server as a crash would, cutting every connection, and starts it again.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Stop(t)
	s.start(t)
}

// Stop ends the server as a crash would, until Again.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	s.stop(t, syscall.SIGQUIT)
}

// Again starts a stopped server.
func (s *Server) Again(t testing.TB) {
	t.Helper()
	s.start(t)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// fsync guards against a power cut, which no test makes.
	s.cmd = s.command(context.Background(), "postgres", "-D", s.data(), "-k", s.dir, "-c", "listen_addresses=",
		"-c", "fsync=off", "-c", "max_connections=200", "-c", "shared_buffers=32MB")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	started := make(chan error, 1)
	s.exited = make(chan struct{})
	go runTied(s.cmd, started, s.exited)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	s.await(t)
}

func (s *Server) await(t testing.TB) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(starting); time.Now().Before(end); <-tick.C {
		if s.command(t.Context(), "pg_isready", "--quiet", "--host", s.dir).Run() == nil {
			return
		}
	}
	log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	t.Fatalf("pgtest: no answer within %s:\n%s", starting, log)
}

// stop ends the server: SIGINT in order, SIGQUIT as it is.
func (s *Server) stop(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		t.Errorf("pgtest: %v", err)
	}
	<-s.exited
}

func (s *Server) run(t testing.TB, program string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := s.command(t.Context(), program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("pgtest: %s: %v\n%s", program, err, &out)
	}
}

func (s *Server) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner}
	return cmd
}

// binaries returns the folder of the newest release, "" if there is none.
func binaries() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return release(a) - release(b) }))
	}
	program, err := exec.LookPath("postgres")
	if err != nil {
		return ""
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return ""
	}
	return filepath.Dir(program)
}

func release(program string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(program))))
	return n
}

// unprivileged is whom the server runs as, for it refuses root.
func unprivileged(t testing.TB) *syscall.Credential {
	t.Helper()
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	missing(t, "PostgreSQL refuses to run as root, and there is no user postgres or nobody")
	return nil
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("NIXTRAP_REQUIRE_NIX") != "" {
		t.Fatalf("pgtest: %s (NIXTRAP_REQUIRE_NIX is set)", why)
	}
	t.Skipf("pgtest: %s", why)
}
