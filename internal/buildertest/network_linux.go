package buildertest

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
)

// link is a veth pair between the machine and a box.
type link struct {
	name      string // of the machine's end
	near, far netip.Addr
	inside    func(args ...string) *exec.Cmd // a command of the box
}

// connect gives a box, by the process id of its first process, an address that the machine reaches.
func connect(pid int, inside func(args ...string) *exec.Cmd) (*link, error) {
	l := &link{name: "nt" + strings.ToLower(rand.Text()[:11]), inside: inside}
	if err := run(exec.Command("ip", "link", "add", l.name, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(pid))); err != nil {
		return nil, err
	}
	if err := l.address(); err != nil {
		l.remove()
		return nil, err
	}
	return l, nil
}

// address finds a pair of addresses that no other link of the machine has.
func (l *link) address() error {
	if err := run(exec.Command("ip", "link", "set", l.name, "up")); err != nil {
		return err
	}
	var err error
	for range 10 {
		l.near, l.far = pair()
		if err = run(exec.Command("ip", "address", "add", l.near.String()+"/32", "dev", l.name)); err != nil {
			continue
		}
		// This fails if the route is there, so that two tests don't share an address.
		if err = run(exec.Command("ip", "route", "add", l.far.String()+"/32", "dev", l.name, "src", l.near.String())); err == nil {
			break
		}
		_ = run(exec.Command("ip", "address", "del", l.near.String()+"/32", "dev", l.name))
	}
	if err != nil {
		return err
	}
	return run(l.inside("/bin/sh", "-c", fmt.Sprintf(
		"ip address add %s/32 dev eth0 && ip link set eth0 up && ip route add %s/32 dev eth0", l.far, l.near)))
}

// pair picks two neighbours of 198.18.0.0/15, which is set aside for tests between networks (RFC 2544).
func pair() (near, far netip.Addr) {
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	n := 198<<24 | 18<<16 | binary.BigEndian.Uint32(random[:])&0x1fffe
	return address(n), address(n + 1)
}

func address(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// unplug makes what the box sends get lost, without a word to anyone; plug ends that.
func (l *link) unplug() error {
	return run(l.inside("ip", "route", "replace", "blackhole", l.near.String()+"/32"))
}

func (l *link) plug() error {
	return run(l.inside("/bin/sh", "-c",
		fmt.Sprintf("ip route del blackhole %[1]s/32; ip route replace %[1]s/32 dev eth0", l.near)))
}

// remove takes the pair away at once; the kernel would do so some time after the box's end.
func (l *link) remove() { _ = run(exec.Command("ip", "link", "del", l.name)) }

func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %v: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
