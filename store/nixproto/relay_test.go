package nixproto_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// relayName is what this test program is called where it is a remote-program of a real Nix.
const relayName = "relay"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == relayName {
		syscall.Exit(relay(os.Args[0] + ".sock")) // without the race detector's pause
	}
	os.Exit(m.Run())
}

// relay joins standard input and output with a socket.
func relay(socket string) int {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	go func() {
		io.Copy(conn, os.Stdin)
		conn.(*net.UnixConn).CloseWrite()
	}()
	io.Copy(os.Stdout, conn)
	return 0
}

// served is a server of ours that real Nix reaches by a store URI.
type served struct {
	uri   string
	allow string // an error of Serve that is as it should be

	mu          sync.Mutex // guards all below
	transcripts []*recorder
	errs        []error // of Serve
	peer        []nixproto.Peer
}

// serveNix serves what open returns to the Nix of a store, until the test's end.
func serveNix(
	t *testing.T, d *realDaemon, o *nixproto.ServerOptions, open func(context.Context, *nixproto.Session) (nixproto.Handler, error),
) *served {
	t.Helper()
	dir := d.nix.TempDir(t)
	program := filepath.Join(dir, relayName)
	executable, err := os.Executable()
	require.NoError(t, err)
	text, err := os.ReadFile(executable)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(d.nix.Host(program), text, 0o755))
	listener, err := net.Listen("unix", d.nix.Host(program+".sock"))
	require.NoError(t, err)
	s := &served{uri: "ssh-ng://localhost?remote-program=" + program}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			r := &recorder{ReadWriteCloser: conn}
			s.mu.Lock()
			s.transcripts = append(s.transcripts, r)
			s.mu.Unlock()
			wg.Go(func() {
				err := nixproto.Serve(t.Context(), r, func(ctx context.Context, session *nixproto.Session) (nixproto.Handler, error) {
					s.mu.Lock()
					s.peer = append(s.peer, session.Peer())
					s.mu.Unlock()
					return open(ctx, session)
				}, o)
				s.mu.Lock()
				defer s.mu.Unlock()
				s.errs = append(s.errs, err)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		wg.Wait()
		for _, err := range s.errs {
			if err != nil && (s.allow == "" || !strings.Contains(err.Error(), s.allow)) {
				t.Errorf("Serve: %v", err)
			}
		}
	})
	return s
}

// peers returns the clients so far.
func (s *served) peers() []nixproto.Peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.peer)
}
