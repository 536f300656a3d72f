package localstore_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

// SQLite shares a database's state among all connections of a process, so writers and readers under test live in
// processes of their own: the test binary again, told by this variable what to be.
const roleVariable = "LOCALSTORE_TEST_ROLE"

func TestMain(m *testing.M) {
	roles := map[string]func(arg string) error{"writer": beWriter, "reader": beReader}
	role, arg, _ := strings.Cut(os.Getenv(roleVariable), ":")
	if f := roles[role]; f != nil {
		if err := f(arg); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// process is a helper that answers each line with a line.
type process struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

const nobody = 65534

// startProcess runs the test binary in a role, as user nobody if asked.
func startProcess(t testing.TB, role string, asNobody bool) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	// The race detector would make each process sleep for a second at its end.
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	if asNobody {
		if os.Geteuid() != 0 {
			t.Skip("only root can start a process as another user")
		}
		cmd.Path = filepath.Join(publicDir(t), "helper")
		copyFile(t, self, cmd.Path)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	p := &process{t: t, cmd: cmd}
	p.in, err = cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	p.out = bufio.NewReader(out)
	require.NoError(t, cmd.Start())
	t.Cleanup(p.kill)
	return p
}

func (p *process) ask(line string) string {
	p.t.Helper()
	_, err := fmt.Fprintln(p.in, line)
	require.NoError(p.t, err)
	answer, err := p.out.ReadString('\n')
	require.NoError(p.t, err)
	return strings.TrimSpace(answer)
}

// close lets the process end by itself.
func (p *process) close() {
	p.t.Helper()
	require.NoError(p.t, p.in.Close())
	require.NoError(p.t, p.cmd.Wait())
}

// kill is kill -9. On a process that has ended it does nothing.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func publicDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "localstore-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, b, 0o755))
}

// writer changes a database as Nix does.
type writer struct{ *process }

type statement struct {
	SQL  string
	Args []any
}

func (m *madeStore) writer() *writer {
	m.t.Helper()
	return &writer{startProcess(m.t, "writer:"+m.path, false)}
}

func (w *writer) exec(query string, args ...any) {
	w.t.Helper()
	b, err := json.Marshal(statement{query, args})
	require.NoError(w.t, err)
	require.Equal(w.t, "ok", w.ask(string(b)))
}

func beWriter(path string) error {
	c, err := sqlite.OpenConn(path, sqlite.OpenReadWrite, sqlite.OpenCreate)
	if err != nil {
		return err
	}
	c.SetBusyTimeout(10 * time.Second)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var s statement
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return err
		}
		if len(s.Args) == 0 {
			err = sqlitex.ExecuteTransient(c, s.SQL, nil)
		} else {
			err = sqlitex.Execute(c, s.SQL, &sqlitex.ExecOptions{Args: s.Args})
		}
		if err != nil {
			return err
		}
		fmt.Println("ok")
	}
	return c.Close()
}

// reader asks a store, as another user if wanted.
type reader struct{ *process }

func (m *madeStore) reader(asNobody bool) *reader {
	m.t.Helper()
	return &reader{startProcess(m.t, "reader:"+m.root, asNobody)}
}

// has returns "yes", "no" or an error's text.
func (r *reader) has(path narinfo.StorePath) string { return r.ask(string(path.HashPart())) }

func beReader(root string) error {
	var s *localstore.Store
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		answer, err := "yes", error(nil)
		if s == nil {
			o := &localstore.Options{Root: root, NoDaemon: true}
			localstore.SetAges(o, time.Second, time.Second) // a look-up sees what was committed before it
			s, err = localstore.Open(context.Background(), o)
		}
		if err == nil {
			_, err = s.Info(context.Background(), narinfo.HashPart(lines.Text()))
		}
		switch {
		case errors.Is(err, store.ErrNotFound):
			answer = "no"
		case err != nil:
			answer = strings.ReplaceAll("error: "+err.Error(), "\n", " ")
		}
		fmt.Println(answer)
	}
	if s == nil {
		return nil
	}
	return s.Close()
}
