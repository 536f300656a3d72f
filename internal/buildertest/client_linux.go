package buildertest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// ClientOptions are a client's.
type ClientOptions struct {
	// Release is "2.8", "2.26" or "2.34"; "" is "2.34".
	Release string
	// Daemon makes the client's commands go through its nix-daemon.
	Daemon bool
	// NixConf has more lines of nix.conf. "max-jobs = 0" makes every build go to a builder.
	NixConf string
	// Env has more of the environment, of its commands and its daemon: "NIX_CONFIG=…".
	Env []string
}

// Client is a Nix release with a store of its own, on the machine's network. Its methods are not safe for concurrent
// use, but commands that it prepared may run side by side.
type Client struct {
	// Release is as in [ClientOptions].
	Release string

	box    *box
	opts   ClientOptions
	daemon *background
}

// NewClient makes a client that goes with the test.
func NewClient(t testing.TB, opts *ClientOptions) *Client {
	t.Helper()
	c := &Client{}
	if opts != nil {
		c.opts = *opts
	}
	c.Release = cmp.Or(c.opts.Release, "2.34")
	c.box = newBox(t, c.Release)
	if _, err := os.Stat(c.box.nix.Host("/usr/bin/ssh")); err != nil {
		missing(t, "no OpenSSH client beside Nix "+c.Release+": run .ci/real-nix")
	}
	write(t, c.box.host("ssh_config"), sshConfig, 0o600)
	enter(t, c.box, 0)
	c.SetConf(t, c.opts.NixConf)
	return c
}

// sshConfig takes no key but the one that a machine's line pins, and asks nothing.
const sshConfig = `Host *
  BatchMode yes
  StrictHostKeyChecking yes
  GlobalKnownHostsFile none
  IdentitiesOnly yes
  ControlMaster no
`

// SetConf replaces the lines that [ClientOptions] has as NixConf, and starts the client's daemon again if it has one.
func (c *Client) SetConf(t testing.TB, lines string) {
	t.Helper()
	write(t, c.box.host("conf/nix.conf"), "sandbox = false\nbuild-users-group =\nsubstituters =\n"+
		"experimental-features = nix-command ca-derivations\n"+lines+"\n", 0o644)
	if !c.opts.Daemon {
		return
	}
	socket := c.box.inside(c.socket())
	if c.daemon != nil {
		_ = kill(c.daemon.cmd)
		<-c.daemon.done
		_ = os.Remove(socket) // the next one makes it
	}
	cmd := c.box.command(context.Background(), false, "/usr/bin/nix-daemon")
	cmd.Env = append(c.env(), "NIX_REMOTE="+c.store())
	daemonLog(t, c.box, cmd)
	c.daemon = c.box.spawn(t, cmd)
	awaitFile(t, c.box, socket)
}

func (c *Client) socket() string { return c.box.dir + "/socket" }

// store is where the client's store is, as NIX_REMOTE says it.
func (c *Client) store() string {
	if c.box.pid == 0 {
		return c.box.dir + "/chroot"
	}
	return "local"
}

func (c *Client) env() []string {
	return append([]string{
		"HOME=" + c.box.dir + "/home",
		"USER=root",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LANG=C.UTF-8",
		"NIX_CONF_DIR=" + c.box.dir + "/conf",
		"NIX_SSHOPTS=-F " + c.box.dir + "/ssh_config",
		"NIX_DAEMON_SOCKET_PATH=" + c.socket(),
	}, c.opts.Env...)
}

// Command prepares one of the release's programs. The test's end kills it.
func (c *Client) Command(t testing.TB, program string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := c.box.command(t.Context(), false, append([]string{"/usr/bin/" + program}, args...)...)
	remote := c.store()
	if c.opts.Daemon {
		remote = "daemon"
	}
	cmd.Env = append(c.env(), "NIX_REMOTE="+remote)
	return cmd
}

// Run runs a command to its end and returns what it printed on stdout, white space trimmed. A failure fails the test
// with the command's stderr, and what the client's daemon wrote.
func (c *Client) Run(t testing.TB, program string, args ...string) string {
	t.Helper()
	cmd := c.Command(t, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		log, _ := os.ReadFile(c.box.host("daemon.log"))
		t.Fatalf("Nix %s: %s %s: %v\n%s%s", c.Release, program, strings.Join(args, " "), err, stderr.Bytes(), log)
	}
	return strings.TrimSpace(stdout.String())
}

// Dir is the client's folder, as its commands see it.
func (c *Client) Dir() string { return c.box.dir }

// WriteFile puts a file into the client's folder and returns its path as the client's commands see it.
func (c *Client) WriteFile(t testing.TB, name, text string, mode os.FileMode) string {
	t.Helper()
	write(t, c.box.host(name), text, mode)
	return filepath.Join(c.box.dir, name)
}

// Path is one of the client's files as the test sees it: Path("/nix/store/…").
func (c *Client) Path(inside string) string {
	if c.box.pid == 0 && strings.HasPrefix(inside, "/nix/") {
		return c.box.host("chroot" + inside)
	}
	return c.box.inside(inside)
}

// Root is the folder whose nix/ is the client's, as the test sees it, without a symlink on the way: SQLite would follow
// those of /proc out of the client's mounts.
func (c *Client) Root() string {
	if c.box.pid == 0 {
		return c.box.host("chroot")
	}
	return c.box.host("")
}

// Kill ends all that the client has running, its daemon too, as a power cut would.
func (c *Client) Kill() { c.box.killAll() }

// Machine is how a client lists a builder.
type Machine struct {
	// Builder is the builder.
	Builder *Builder
	// Addr is where the client reaches it, of a [Relay]; "" is its own address.
	Addr string
	// Protocol is "ssh-ng" or "ssh"; "" is "ssh-ng".
	Protocol string
	// Systems is the second column; "" is this machine's.
	Systems string
	// Jobs is the fourth column; 0 is 1.
	Jobs int
	// Rest has the fifth to the seventh: speed factor, features, mandatory features; "" is "1 - -".
	Rest string
}

// Line is a machine's line of the setting builders, all eight columns, and gives the client the builder's key.
func (c *Client) Line(t testing.TB, m Machine) string {
	t.Helper()
	key, err := os.ReadFile(m.Builder.Key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := c.WriteFile(t, "key-"+filepath.Base(m.Builder.box.dir), string(key), 0o600)
	return fmt.Sprintf("%s://%s@%s %s %s %d %s %s", cmp.Or(m.Protocol, "ssh-ng"), m.Builder.User,
		c.name(t, cmp.Or(m.Addr, m.Builder.Addr())), cmp.Or(m.Systems, system()), keyFile, max(m.Jobs, 1),
		cmp.Or(m.Rest, "1 - -"), machineKey(m.Builder.HostKey))
}

// system is this machine's, as Nix calls it.
func system() string {
	switch runtime.GOARCH {
	case "arm64":
		return "aarch64-linux"
	case "386":
		return "i686-linux"
	default:
		return "x86_64-linux"
	}
}

// name is how the client's ssh calls an address. Nix 2.8 has no ports in its store URLs: another port than 22 is a
// name that ssh's configuration knows.
func (c *Client) name(t testing.TB, addr string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	if port == "22" {
		return host
	}
	name := "port" + port
	config, err := os.ReadFile(c.box.host("ssh_config"))
	if err != nil {
		t.Fatal(err)
	}
	entry := fmt.Sprintf("Host %[1]s\n  HostName %[2]s\n  Port %[3]s\n  HostKeyAlias %[1]s\n", name, host, port)
	if !strings.Contains(string(config), entry) {
		write(t, c.box.host("ssh_config"), entry+string(config), 0o600)
	}
	return name
}

// Await runs a check until it holds, for as long as a test may wait, and fails the test with what when it never does.
func Await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(starting); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("buildertest: never within %s: %s", starting, what)
}
