// Package buildertest runs real remote builders and real clients of Nix's releases in tests.
//
// [Start] makes a builder: a process of its own mounts, process ids and network, with an address, an empty /nix, an
// sshd with a fresh host key, and Nix 2.8, 2.26 or 2.34 behind it. What it tells of itself in /proc is the test's to
// set. [Relay] puts a link before it that can be slow or break. [NewClient] runs a release as a client, single-user
// or through its nix-daemon, with a store of its own and the stock OpenSSH client; [Client.Line] makes the line that
// lists a builder there.
//
// Where the kernel or the caller's rights give no namespaces (or NIXTRAP_NO_NAMESPACES is set) a line says so, and a
// builder is an sshd on a port of 127.0.0.1 with a chroot store. It is reached and copied to as ever; but its builds
// need what Nix's sandbox needs, and a root folder that is not a release's own; its readings are the machine's; and
// there is one user.
//
// A test is skipped with a line that says why where sshd or the release is missing; with NIXTRAP_REQUIRE_NIX set it
// fails instead. Everything ends with the test, and with the test's process if that is killed.
package buildertest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/internal/relay"
)

// starting is how long sshd or a daemon may take until it answers.
const starting = 20 * time.Second

// Options are a builder's. Zero values have the sense that each field says.
type Options struct {
	// Release is "2.8", "2.26" or "2.34"; "" is "2.34".
	Release string
	// User is whom clients log in as; "" is root, whose nix-daemon --stdio opens the store itself. Any other name is
	// made, and its nix-daemon --stdio speaks with a daemon that runs on the builder.
	User string
	// Untrusted leaves User out of the daemon's trusted-users.
	Untrusted bool
	// SSHD has lines of sshd_config that come before the rig's own, so that they count: "MaxSessions 1".
	SSHD string
	// Path is the PATH of commands; "" is where the release's programs are.
	Path string
	// NixConf has more lines of nix.conf.
	NixConf string
	// StoreBytes is the size of the disk that holds /nix; 0 is the machine's.
	StoreBytes int64
}

// Builder is a running builder. Its methods are not safe for concurrent use, but for Addr, Machine's fields and Path.
type Builder struct {
	// Release and User are as in [Options], with the defaults filled in.
	Release, User string
	// Host and Port are where sshd listens.
	Host string
	Port int
	// HostKey is sshd's only one.
	HostKey ssh.PublicKey
	// Key is the file with the private key that sshd accepts, without a passphrase.
	Key string

	box  *box
	link *link // nil without namespaces
	opts Options
	sshd *background
}

// Start starts a builder that the test's end stops.
func Start(t testing.TB, opts *Options) *Builder {
	t.Helper()
	b := &Builder{}
	if opts != nil {
		b.opts = *opts
	}
	if b.Release = b.opts.Release; b.Release == "" {
		b.Release = "2.34"
	}
	if b.User = b.opts.User; b.User == "" {
		b.User = "root"
	}
	for _, program := range []string{"/usr/sbin/sshd", "/usr/bin/nsenter"} {
		if _, err := os.Stat(program); err != nil {
			missing(t, "no "+program+" here: apt-get install openssh-server util-linux, without starting it")
		}
	}
	b.box = newBox(t, b.Release)
	b.box.net = true
	b.keys(t)
	b.files(t)
	enter(t, b.box, b.opts.StoreBytes)
	b.network(t)
	if b.User != "root" {
		b.daemon(t)
	}
	b.StartSSHD(t)
	return b
}

// newBox makes the folder of a box that has not begun.
func newBox(t testing.TB, release string) *box {
	t.Helper()
	nix := realnix.Get(t, release)
	b := &box{nix: nix, dir: nix.TempDir(t)}
	for _, dir := range []string{"nix", "etc", "conf", "home"} {
		if err := os.Mkdir(b.host(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(b.leave)
	return b
}

// enter gives a box its namespaces, or tells that there are none.
func enter(t testing.TB, b *box, storeBytes int64) {
	t.Helper()
	err := b.enter(storeBytes)
	if errors.Is(err, errNoNamespaces) {
		t.Logf("buildertest: %v: chroot stores and ports of 127.0.0.1 instead", err)
		return
	}
	if err != nil {
		t.Fatalf("buildertest: %v", err)
	}
}

func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("NIXTRAP_REQUIRE_NIX") != "" {
		t.Fatalf("buildertest: %s (NIXTRAP_REQUIRE_NIX is set)", why)
	}
	t.Skipf("buildertest: %s", why)
}

// Addr is where sshd listens, as "host:port".
func (b *Builder) Addr() string { return net.JoinHostPort(b.Host, strconv.Itoa(b.Port)) }

// Path is one of the builder's files as the test sees it: Path("/nix/store/…").
func (b *Builder) Path(inside string) string {
	if b.box.pid == 0 && strings.HasPrefix(inside, "/nix/") {
		return b.box.host("chroot" + inside)
	}
	return b.box.inside(inside)
}

// Isolated tells whether the builder has namespaces of its own.
func (b *Builder) Isolated() bool { return b.box.pid != 0 }

// Command prepares a program of the release on the builder, as root.
func (b *Builder) Command(t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := b.box.command(t.Context(), false, append([]string{"/usr/bin/" + program}, args...)...)
	cmd.Env = b.env()
	return cmd
}

// SetReading sets what the builder's kernel says: "pressure/cpu", "pressure/memory", "pressure/io", "loadavg",
// "meminfo" or "stat", below /proc. At first they are what the machine's kernel said when the builder was started.
func (b *Builder) SetReading(t testing.TB, name, text string) {
	t.Helper()
	file := b.box.host("proc/" + name)
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("buildertest: no reading %q", name)
	}
	// In place, for the file is what is mounted.
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(len(text))); err != nil {
		t.Fatal(err)
	}
}

// StopSSHD closes the builder's port, so that connections are refused, and ends what sshd has going on.
func (b *Builder) StopSSHD(t testing.TB) {
	t.Helper()
	if b.box.pid == 0 {
		_ = kill(b.sshd.cmd)
		<-b.sshd.done
		return
	}
	b.box.killAll()
}

// SetSSHD sets the lines that [Options] has as SSHD, for the next StartSSHD.
func (b *Builder) SetSSHD(lines string) { b.opts.SSHD = lines }

// StartSSHD starts sshd again after StopSSHD, and waits until it answers.
func (b *Builder) StartSSHD(t testing.TB) {
	t.Helper()
	write(t, b.box.host("sshd_config"), b.sshdConfig(), 0o600)
	cmd := b.box.command(context.Background(), true, "/usr/sbin/sshd", "-D", "-f", b.box.host("sshd_config"),
		"-E", b.box.host("sshd.log"))
	b.sshd = b.box.spawn(t, cmd)
	b.await(t)
}

// Unplug makes the builder's network lose all that it sends, without a reset: a half-open connection. It needs
// namespaces.
func (b *Builder) Unplug(t testing.TB) {
	t.Helper()
	if b.link == nil {
		t.Skip("buildertest: a builder without a network of its own can't be unplugged")
	}
	if err := b.link.unplug(); err != nil {
		t.Fatal(err)
	}
}

// Plug ends an Unplug.
func (b *Builder) Plug(t testing.TB) {
	t.Helper()
	if err := b.link.plug(); err != nil {
		t.Fatal(err)
	}
}

// Log is what sshd wrote.
func (b *Builder) Log() string {
	log, _ := os.ReadFile(b.box.host("sshd.log"))
	return string(log)
}

// Relay puts a link before the builder, which the test's end closes. It has an address of its own with port 22 where
// the caller may listen there.
func Relay(t testing.TB, b *Builder) *relay.Relay {
	t.Helper()
	var random [2]byte
	_, _ = rand.Read(random[:]) // never fails
	r, err := relay.Listen(fmt.Sprintf("127.83.%d.%d:22", random[0], random[1]), b.Addr())
	if err != nil {
		r, err = relay.Listen("127.0.0.1:0", b.Addr())
	}
	if err != nil {
		t.Fatalf("buildertest: %v", err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// keys makes the host key and the user's.
func (b *Builder) keys(t testing.TB) {
	t.Helper()
	b.HostKey = GenerateKey(t, b.box.host("hostkey"))
	b.Key = b.box.host("key")
	user := GenerateKey(t, b.Key)
	write(t, b.box.host("authorized_keys"), string(ssh.MarshalAuthorizedKey(user)), 0o644)
}

// GenerateKey writes a new private key in OpenSSH's format to a file, and returns its public half.
func GenerateKey(t testing.TB, file string) ssh.PublicKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, string(pem.EncodeToMemory(block)), 0o600)
	return key
}

// AuthorizedKeys replaces the keys that sshd accepts, at once.
func (b *Builder) AuthorizedKeys(t testing.TB, lines string) {
	t.Helper()
	write(t, b.box.host("authorized_keys"), lines, 0o644)
}

// files writes what the box's mounts and programs read.
func (b *Builder) files(t testing.TB) {
	t.Helper()
	const id = 29990
	passwd := "root:x:0:0:root:/root:/bin/sh\nsshd:x:29989:65534::/run/sshd:/usr/sbin/nologin\n" +
		"nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
	if b.User != "root" {
		passwd += fmt.Sprintf("%s:x:%d:%d::/tmp:/bin/sh\n", b.User, id, id)
	}
	write(t, b.box.host("etc/passwd"), passwd, 0o644)
	write(t, b.box.host("etc/group"), fmt.Sprintf("root:x:0:\nnogroup:x:65534:\n%s:x:%d:\n", "builders", id), 0o644)
	write(t, b.box.host("etc/shadow"), "root:*:19000::::::\n", 0o640)
	if err := os.MkdirAll(b.box.host("proc/pressure"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pressure/cpu", "pressure/memory", "pressure/io", "loadavg", "meminfo", "stat"} {
		text, _ := os.ReadFile("/proc/" + name) // not every kernel has pressure
		write(t, b.box.host("proc/"+name), string(text), 0o644)
	}
}

// nixConf is written when it is known whether the box has namespaces.
func (b *Builder) nixConf() string {
	trusted := "root"
	if b.User != "root" && !b.opts.Untrusted {
		trusted += " " + b.User
	}
	conf := "build-users-group =\nsubstituters =\nexperimental-features = nix-command ca-derivations\n" +
		"trusted-users = " + trusted + "\n"
	if b.box.pid == 0 { // a chroot store is always built in with the sandbox
		conf += "sandbox-paths = /bin /lib /lib64 /usr\n"
	} else {
		conf += "sandbox = false\n"
	}
	return conf + b.opts.NixConf
}

func (b *Builder) env() []string {
	path := b.opts.Path
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	env := []string{"PATH=" + path, "NIX_CONF_DIR=" + b.box.dir + "/conf", "HOME=/root", "LANG=C.UTF-8"}
	if b.box.pid == 0 {
		env = append(env, "NIX_REMOTE="+b.box.dir+"/chroot")
	}
	return env
}

func (b *Builder) network(t testing.TB) {
	t.Helper()
	write(t, b.box.host("conf/nix.conf"), b.nixConf(), 0o644)
	if b.box.pid == 0 {
		if b.User != "root" {
			t.Skipf("buildertest: user %q on the builder needs namespaces", b.User)
		}
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
		b.Host, b.Port = "127.0.0.1", freePort(t)
		return
	}
	var err error
	b.link, err = connect(b.box.pid, func(args ...string) *exec.Cmd {
		return b.box.command(context.Background(), true, args...)
	})
	if err != nil {
		t.Fatalf("buildertest: %v", err)
	}
	t.Cleanup(b.link.remove)
	b.Host, b.Port = b.link.far.String(), 22
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// sshdConfig: of a keyword that comes twice sshd takes the first.
func (b *Builder) sshdConfig() string {
	lines := []string{
		b.opts.SSHD,
		"ListenAddress " + b.Addr(),
		"HostKey " + b.box.host("hostkey"),
		"AuthorizedKeysFile " + b.box.host("authorized_keys"),
		"StrictModes no",
		"UsePAM no",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"PermitRootLogin yes",
		"PidFile none",
		"UseDNS no",
		"PrintMotd no",
		"PrintLastLog no",
		"MaxStartups 200",
		"LogLevel VERBOSE",
		"SetEnv " + strings.Join(b.env(), " "),
	}
	if b.box.nix.Root != "/" {
		lines = append(lines, "ChrootDirectory "+b.box.nix.Root)
	}
	return strings.Join(lines, "\n") + "\n"
}

// daemon runs what nix-daemon --stdio of a user speaks with.
func (b *Builder) daemon(t testing.TB) {
	t.Helper()
	cmd := b.box.command(context.Background(), false, "/usr/bin/nix-daemon")
	cmd.Env = b.env()
	daemonLog(t, b.box, cmd)
	b.box.spawn(t, cmd)
	awaitFile(t, b.box, b.box.inside("/nix/var/nix/daemon-socket/socket"))
}

// daemonLog sends a daemon's output to a file, for its children outlive it and hold what it had.
func daemonLog(t testing.TB, b *box, cmd *exec.Cmd) {
	t.Helper()
	log, err := os.OpenFile(b.host("daemon.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	cmd.Stdout, cmd.Stderr = log, log
}

func awaitFile(t testing.TB, b *box, file string) {
	t.Helper()
	for end := time.Now().Add(starting); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return
		}
	}
	log, _ := os.ReadFile(b.host("daemon.log"))
	t.Fatalf("buildertest: no %s within %s:\n%s", file, starting, log)
}

// await waits until sshd says who it is.
func (b *Builder) await(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(starting); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if banner(b.Addr()) {
			return
		}
		select {
		case <-b.sshd.done:
			t.Fatalf("buildertest: sshd ended:\n%s", b.Log())
		default:
		}
	}
	t.Fatalf("buildertest: sshd does not answer within %s:\n%s", starting, b.Log())
}

func banner(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second)) // a connection has deadlines
	begin := make([]byte, 4)
	_, err = io.ReadFull(c, begin)
	return err == nil && bytes.Equal(begin, []byte("SSH-"))
}

func write(t testing.TB, file, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// machineKey is a host key as the eighth column of a machine's line has it.
func machineKey(key ssh.PublicKey) string {
	return base64.StdEncoding.EncodeToString(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
}
