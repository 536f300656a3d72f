package httpstore_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/httpstore"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// nginx serves a folder as Debian's nginx does, and returns the socket that it listens on. Without nginx the test is skipped.
func nginx(t *testing.T, root string) string {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = "/usr/sbin/nginx"
	}
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("NIXTRAP_REQUIRE_NIX") != "" {
			t.Fatal("no nginx here: install nginx-light (NIXTRAP_REQUIRE_NIX is set)")
		}
		t.Skip("no nginx here: install nginx-light")
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "socket") // no port to be taken by others
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;\n"
	}
	var temp strings.Builder
	for _, name := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "%s_temp_path %s/%s;\n", name, dir, name)
	}
	conf := fmt.Sprintf("daemon off;\n%sworker_processes 1;\npid %s/pid;\nerror_log stderr warn;\n"+
		"events { worker_connections 256; }\nhttp {\naccess_log off;\nsendfile on;\n%s"+
		"server { listen unix:%s; root %s; gzip on; gzip_types *; }\n}\n", user, dir, temp.String(), socket, root)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o644))
	cmd := exec.CommandContext(t.Context(), program, "-p", dir, "-e", "stderr", "-c", filepath.Join(dir, "nginx.conf"))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		<-done
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		return c.Close() == nil
	}, 10*time.Second, 10*time.Millisecond, "nginx does not start")
	return socket
}

// dialer connects to a socket, and can break connections.
type dialer struct {
	socket string
	cut    atomic.Int64 // bytes after which a connection breaks; 0: never
}

func (d *dialer) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", d.socket)
	if n := d.cut.Load(); err == nil && n > 0 {
		return &breaking{Conn: c, left: n}, nil
	}
	return c, err
}

type breaking struct {
	net.Conn
	left int64
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.left <= 0 {
		_ = b.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.Conn.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// folder writes the files of an upstream into one.
func (u *upstream) folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path, file := range u.files {
		name := filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, file, 0o644))
	}
	return dir
}

func TestConformanceOfNginx(t *testing.T) {
	for _, compression := range []string{"none", "zstd", "xz"} {
		entries := sample().Entries()
		u := newUpstream(t, compression, entries, nil)
		d := &dialer{socket: nginx(t, u.folder(t))}
		t.Run(compression, func(t *testing.T) {
			storetest.Test(t, func(t *testing.T) storetest.Fixture {
				o := u.options()
				transport := &http.Transport{DialContext: d.DialContext}
				t.Cleanup(transport.CloseIdleConnections)
				o.Transport, o.PositiveTTL = transport, -1 // so that nginx's 304 are needed
				return storetest.Fixture{Store: newStore(t, "http://cache", o), Entries: entries}
			})
		})
	}
}

// nginx is asked for the rest where a connection breaks.
func TestNginxIsResumed(t *testing.T) {
	m := &storetest.Memory{}
	m.Add("large", storetest.Files{"large": noise(1 << 20)})
	e := m.Entries()[0]
	u := newUpstream(t, "none", []storetest.Entry{e}, nil)
	d := &dialer{socket: nginx(t, u.folder(t))}
	o := u.options()
	var count atomic.Int32
	o.Trace = &httpstore.Trace{Resumed: func() { count.Add(1) }}
	o.Transport = &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}
	s := newStore(t, "http://cache", o)
	d.cut.Store(400_000)
	got, err := readNAR(t.Context(), s, infoOf(t, s, e))
	require.NoError(t, err)
	require.True(t, bytes.Equal(e.NAR, got))
	require.EqualValues(t, 2, count.Load())

	count.Store(0)
	d.cut.Store(100_000)
	_, err = readNAR(t.Context(), s, infoOf(t, s, e))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.EqualValues(t, 5, count.Load())
}

// What real Nix has written and signed, served by nginx, is read and trusted; a source that it has not signed as well.
func TestRealNixThroughNginx(t *testing.T) {
	for _, release := range []string{"2.8", "2.34"} {
		t.Run(release, func(t *testing.T) {
			n := realnix.Get(t, release)
			dir := n.TempDir(t)
			key, err := signing.GenerateKey("real-1")
			require.NoError(t, err)
			require.NoError(t, key.WriteFile(n.Host(path.Join(dir, "key"))))
			plain := realCache(t, n, dir, "plain", "?compression=zstd")
			signed := realCache(t, n, dir, "signed", "?compression=xz&secret-key="+path.Join(dir, "key"))
			for name, c := range map[string]struct {
				root string
				keys signing.Keyring
				ok   []bool // for the source and for the text that refers to it
			}{
				"signed":   {signed, signing.Keyring{key.Public()}, []bool{true, true}},
				"unsigned": {plain, signing.Keyring{key.Public()}, []bool{true, false}},
				"no keys":  {signed, nil, []bool{true, false}},
			} {
				d := &dialer{socket: nginx(t, c.root)}
				transport := &http.Transport{DialContext: d.DialContext}
				s := newStore(t, "http://cache", &httpstore.Options{TrustedKeys: c.keys, Transport: transport})
				names, err := filepath.Glob(filepath.Join(c.root, "*.narinfo"))
				require.NoError(t, err)
				require.Len(t, names, 2)
				for _, file := range names {
					hash := strings.TrimSuffix(filepath.Base(file), ".narinfo")
					info, err := s.Info(t.Context(), narinfo.HashPart(hash))
					text, readErr := os.ReadFile(file)
					require.NoError(t, readErr)
					which := 0
					if bytes.Contains(text, []byte("-text\n")) {
						which = 1
					}
					if !c.ok[which] {
						require.ErrorIs(t, err, httpstore.ErrUntrusted, "%s: %s", name, text)
						continue
					}
					require.NoError(t, err, "%s: %s", name, text)
					require.NoError(t, store.Verify(t.Context(), s, info))
					archive, err := readArchive(t.Context(), s, info)
					require.NoError(t, err)
					require.Equal(t, info.FileHash, sha(archive))
				}
				require.NoError(t, s.Close())
			}
		})
	}
}

// realCache makes a source and a text that refers to it in a store below dir, copies both to the cache dir/name, and
// returns where that is.
func realCache(t *testing.T, n realnix.Nix, dir, name, options string) string {
	t.Helper()
	local := []string{"--store", path.Join(dir, "store")}
	require.NoError(t, os.MkdirAll(n.Host(path.Join(dir, "tree")), 0o755))
	require.NoError(t, os.WriteFile(n.Host(path.Join(dir, "tree", "data")), []byte(noise(100_000)), 0o644))
	expression := `builtins.toFile "text" "refers to ${builtins.path { name = "tree"; path = ` + dir + `/tree; }}"`
	evaluate := append(local, "--eval", "--read-write-mode", "-E", expression)
	text := strings.Trim(n.Run(t, "nix-instantiate", evaluate...), `"`)
	n.Run(t, "nix", append(local, "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs", "--to",
		"file://"+path.Join(dir, name)+options, text)...)
	return n.Host(path.Join(dir, name))
}
