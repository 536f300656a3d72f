package buildertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/internal/realnix"
)

// setup makes the box's mounts, all of them private to it, says so and waits until its stdin ends.
// The proc file system is mounted anew because the box has process ids of its own.
const setup = `set -e
mount --make-rprivate /
mount -t proc proc /proc
if [ "$ROOT" != / ]; then mount -t proc proc "$ROOT/proc"; fi
mount -t tmpfs tmpfs /run
mkdir /run/sshd
if [ -n "$STORE_BYTES" ]; then mount -t tmpfs -o "size=$STORE_BYTES" tmpfs "$DIR/nix"; fi
mkdir -p "$ROOT/nix"
mount --bind "$DIR/nix" "$ROOT/nix"
for root in $(printf '/\n%s\n' "$ROOT" | sort -u); do
  for file in "$DIR"/etc/*; do [ ! -e "$file" ] || mount --bind "$file" "$root/etc/${file##*/}"; done
  if [ -d "$DIR/proc/pressure" ]; then
    [ ! -d "$root/proc/pressure" ] || mount --bind "$DIR/proc/pressure" "$root/proc/pressure"
    for file in loadavg meminfo stat; do mount --bind "$DIR/proc/$file" "$root/proc/$file"; done
  fi
done
if [ -n "$NET" ]; then ip link set lo up; fi
echo ready
while read -r _; do :; done
`

// box is a process that holds namespaces: mounts, process ids and, for a builder, the network. Where they can't be had
// it holds nothing, and its commands run beside the test's.
type box struct {
	nix  realnix.Nix
	dir  string // the box's folder as the commands see it, and as sshd does below nix.Root
	net  bool   // it has a network of its own
	pid  int    // of the first process; 0 without namespaces
	init *exec.Cmd
	hold io.Closer // the first process ends when it is closed
	done chan struct{}

	mu      sync.Mutex // guards what follows
	running []*background
}

// background is a process of the box that the test's end stops.
type background struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func (b *box) host(name string) string { return filepath.Join(b.nix.Root, b.dir, name) }

// errNoNamespaces says that the kernel or the caller's rights don't give namespaces.
var errNoNamespaces = errors.New("no namespaces")

// enter starts the first process.
func (b *box) enter(storeBytes int64) error {
	if os.Getenv("NIXTRAP_NO_NAMESPACES") != "" {
		return fmt.Errorf("%w: NIXTRAP_NO_NAMESPACES is set", errNoNamespaces)
	}
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID)
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "ROOT=" + b.nix.Root, "DIR=" + b.host("")}
	if b.net {
		flags |= unix.CLONE_NEWNET
		env = append(env, "NET=1")
	}
	if storeBytes > 0 {
		env = append(env, "STORE_BYTES="+strconv.FormatInt(storeBytes, 10))
	}
	b.init = exec.Command("/bin/sh", "-c", setup)
	b.init.Env, b.init.Dir = env, "/"
	b.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	var stderr strings.Builder
	b.init.Stderr = &stderr
	stdin, err := b.init.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := b.init.StdoutPipe()
	if err != nil {
		return err
	}
	started := make(chan error, 1)
	said := make(chan string, 1)
	b.done, b.hold = make(chan struct{}), stdin
	go b.keep(stdout, started, said)
	if err := <-started; err != nil {
		return fmt.Errorf("%w: %v", errNoNamespaces, err)
	}
	b.pid = b.init.Process.Pid
	if line := <-said; line != "ready\n" {
		b.leave()
		return fmt.Errorf("mounts: %s", strings.TrimSpace(stderr.String()))
	}
	return nil
}

// keep runs the first process to its end. The kernel ends it, and with it all others of the box, when this process
// is killed: no test leaves a builder behind.
func (b *box) keep(stdout io.Reader, started chan<- error, said chan<- string) {
	runtime.LockOSThread() // the signal comes when the thread that started it ends
	defer runtime.UnlockOSThread()
	b.init.SysProcAttr.Pdeathsig = syscall.SIGKILL
	err := b.init.Start()
	started <- err
	if err != nil {
		close(b.done)
		return
	}
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	said <- line
	_ = b.init.Wait() // it is killed
	close(b.done)
}

// leave ends every process of the box; its mounts and its network go with them.
func (b *box) leave() {
	if b.pid != 0 {
		_ = b.init.Process.Kill() // the last of its kind: the kernel kills the others first
		<-b.done
		b.hold.Close()
		b.pid = 0
	}
	b.mu.Lock()
	running := b.running
	b.running = nil
	b.mu.Unlock()
	for _, r := range running {
		_ = kill(r.cmd)
		<-r.done
	}
}

// command prepares a program of the release's root, or of the machine's own with outside.
func (b *box) command(ctx context.Context, outside bool, args ...string) *exec.Cmd {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if b.pid == 0 {
		if !outside && b.nix.Root != "/" {
			attr.Chroot = b.nix.Root
		}
	} else {
		if !outside && b.nix.Root != "/" {
			args = append([]string{"/usr/sbin/chroot", b.nix.Root}, args...)
		}
		args = append([]string{"/usr/bin/nsenter", "--target", strconv.Itoa(b.pid), "--mount", "--pid", "--net", "--"}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.SysProcAttr = "/", attr
	cmd.Cancel = func() error { return kill(cmd) }
	return cmd
}

// spawn starts a command that runs until the box ends or its context does.
func (b *box) spawn(t testing.TB, cmd *exec.Cmd) *background {
	t.Helper()
	r := &background{cmd: cmd, done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		t.Fatalf("buildertest: %v", err)
	}
	go func() {
		defer close(r.done)
		_ = cmd.Wait() // its log tells
	}()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running = append(b.running, r)
	return r
}

// killAll ends every process of the box but the first, as a power cut would.
func (b *box) killAll() {
	if b.pid != 0 {
		_ = b.command(context.Background(), true, "/bin/sh", "-c", "kill -9 -1").Run() // it kills its own parent too
	}
	b.mu.Lock()
	running := b.running
	b.running = nil
	b.mu.Unlock()
	for _, r := range running {
		_ = kill(r.cmd)
		<-r.done
	}
}

// kill ends a command of a box: what nsenter waits for, and not nsenter too, for then its child would be left to the
// machine's first process, which may take seconds to notice, and the box could not end before.
func kill(cmd *exec.Cmd) error {
	pid := cmd.Process.Pid
	if filepath.Base(cmd.Path) == "nsenter" {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", pid))
		if child, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			return syscall.Kill(child, syscall.SIGKILL)
		}
	}
	return syscall.Kill(-pid, syscall.SIGKILL)
}

// inside is a path of the box as this process sees it: below the release's root, with the box's mounts.
func (b *box) inside(path string) string {
	if b.pid == 0 {
		return b.nix.Host(path)
	}
	return filepath.Join("/proc", strconv.Itoa(b.pid), "root", b.nix.Root, path)
}
