package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/daemon"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// pipes is a command's standard input and output.
type pipes struct {
	io.Reader
	io.WriteCloser
	cmd *exec.Cmd
}

// Read implements io.Reader.
func (p pipes) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if n == 0 && errors.Is(err, io.EOF) {
		if failed := p.cmd.Wait(); failed != nil {
			return 0, failed
		}
	}
	return n, err
}

// on runs a command of a release, as a shell script in its place, and notes what was asked for.
func on(t *testing.T, nix realnix.Nix, ran *[]string, script func(command string) string) daemon.Run {
	return func(_ context.Context, command string, stderr io.Writer) (io.ReadWriteCloser, error) {
		*ran = append(*ran, command)
		cmd := nix.Command(t, "env", "sh", "-c", script(command))
		cmd.Stderr = stderr
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		return pipes{out, in, cmd}, nil
	}
}

const absent = narinfo.StorePath("/nix/store/00000000000000000000000000000000-absent")

// root is a store of its own for a script.
func root(t *testing.T, nix realnix.Nix) string {
	return "NIX_REMOTE='local?root=" + nix.TempDir(t) + "' exec "
}

func TestOpenTakesWhatThereIs(t *testing.T) {
	nix := realnix.Get(t, "2.34")
	program := []string{"/opt/it's/bin/program"}
	for _, c := range []struct {
		name     string
		machine  offload.Machine
		known    daemon.Protocol
		script   string
		protocol daemon.Protocol
		ran      []string
	}{
		{"a daemon", offload.Machine{}, "", "nix-daemon --stdio", daemon.Worker, []string{"nix-daemon --stdio"}},
		{"a daemon that is known", offload.Machine{}, daemon.Worker, "nix-daemon --stdio", daemon.Worker, []string{"nix-daemon --stdio"}},
		{
			"a key for another command", offload.Machine{Scheme: "ssh"}, "", "nix-store --serve --write", daemon.Serve,
			[]string{"nix-daemon --stdio", "nix-store --serve --write"},
		},
		{
			"that, known", offload.Machine{Scheme: "ssh"}, daemon.Serve, "nix-store --serve --write", daemon.Serve,
			[]string{"nix-store --serve --write"},
		},
		{
			"a program of ssh-ng", offload.Machine{Scheme: "ssh-ng", RemoteProgram: program}, "", "nix-daemon --stdio", daemon.Worker,
			[]string{`'/opt/it'\''s/bin/program' --stdio`},
		},
		{
			"a program of ssh", offload.Machine{Scheme: "ssh", RemoteProgram: program}, "", "nix-store --serve --write", daemon.Serve,
			[]string{`'/opt/it'\''s/bin/program' --serve --write`},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ran []string
			dir := root(t, nix)
			conn, protocol, err := daemon.Open(t.Context(), &c.machine, c.known, on(t, nix, &ran, func(string) string { return dir + c.script }))
			require.NoError(t, err)
			require.Equal(t, c.protocol, protocol)
			require.Equal(t, c.ran, ran)
			client, err := nixproto.NewClient(t.Context(), conn, nil)
			require.NoError(t, err)
			valid, err := client.ValidPaths(t.Context(), []narinfo.StorePath{absent}, nil)
			require.NoError(t, err)
			require.Empty(t, valid)
			_, err = client.PathInfo(t.Context(), absent)
			require.ErrorIs(t, err, store.ErrNotFound)
			_, err = client.NARFromPath(t.Context(), absent)
			require.ErrorIs(t, err, store.ErrNotFound)
			require.NoError(t, client.Close())
		})
	}
}

func TestOpenSaysWhatIsThereInstead(t *testing.T) {
	nix := realnix.Get(t, "2.34")
	for _, c := range []struct{ name, script, says string }{
		{"a shell that greets", "echo Welcome to this machine; cat > /dev/null", `it begins with "Welcome "`},
		{"nothing", "exit 127", "exit status 127"},
		{"a command that ends", "exit 0", "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ran []string
			_, _, err := daemon.Open(t.Context(), &offload.Machine{Name: "one"}, "", on(t, nix, &ran, func(string) string { return c.script }))
			require.ErrorContains(t, err, c.says)
			require.ErrorContains(t, err, "one has no nix-daemon --stdio")
			require.Len(t, ran, 2)
		})
	}
}

func TestOpenWaitsForNoSilentCommand(t *testing.T) {
	nix := realnix.Get(t, "2.34")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var ran []string
	_, _, err := daemon.Open(ctx, &offload.Machine{Name: "one"}, "", on(t, nix, &ran, func(string) string { return "exec cat > /dev/null" }))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, ran, 1, "who says nothing once is not asked again")
}

// A command that dies ends the connection, with what its runner says of that.
func TestTheEndOfACommandIsAnError(t *testing.T) {
	nix := realnix.Get(t, "2.34")
	var ran []string
	dir := root(t, nix)
	conn, _, err := daemon.Open(t.Context(), &offload.Machine{}, daemon.Serve, on(t, nix, &ran, func(command string) string {
		return "(" + dir + command + "); exit 9"
	}))
	require.NoError(t, err)
	client, err := nixproto.NewClient(t.Context(), conn, nil)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("content"), 0o644))
	var archive bytes.Buffer
	require.NoError(t, nar.Pack(t.Context(), &archive, file))
	wrong, err := narinfo.ParseHash("sha256:" + strings.Repeat("0", 64))
	require.NoError(t, err)
	err = client.AddMultipleToStore(t.Context(), nixproto.Uploads(nixproto.Upload{
		Info: &nixproto.PathInfo{Info: &narinfo.Info{StorePath: absent, NarHash: wrong, NarSize: int64(archive.Len())}},
		Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(&archive), nil },
	}), nil)
	require.ErrorContains(t, err, "exit status 9")
	_, err = client.ValidPaths(t.Context(), nil, nil)
	require.Error(t, err)
}
