package coordinator

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/shim"
)

// lease is a build that is given to a machine.
type lease struct {
	id       string
	named    bool // there is a program of that name
	machine  *machine
	request  *offload.Request
	decision int64 // the record's number; 0: none is kept
	started  time.Time
	expires  time.Time // if no shim takes it until then; zero: one has
	estimate offload.Estimate
	limits   shim.Limits
	needs    []need // of the build; nil: not known
	broken   error  // why its connection ended
}

// give gives a build to a machine. It is called with the mutex held.
func (c *Coordinator) give(m *machine, r *offload.Request, e offload.Estimate, now time.Time) *lease {
	l := &lease{id: "lease-" + rand.Text(), machine: m, request: r, started: now, estimate: e, expires: now.Add(c.opts.LeaseTime)}
	m.running[l] = true
	c.leases[l.id] = l
	return l
}

// name gives a lease a name by which a shim finds it: a link to the shim's program, for build-remote locks uploads by the
// name of the program that it starts, and Nix 2.8 passes no arguments. It is called with the mutex held.
func (c *Coordinator) name(l *lease) (program string, err error) {
	program = filepath.Join(c.opts.ShimDir, l.id)
	if err := os.Symlink(c.opts.ShimProgram, program); err != nil {
		return "", fmt.Errorf("coordinator: %w", err)
	}
	l.named = true
	return program, nil
}

// release ends a lease: its machine has a slot free again. Its name lingers. It is called with the mutex held.
func (c *Coordinator) release(l *lease) {
	if !l.machine.running[l] {
		return
	}
	delete(l.machine.running, l)
	l.expires = time.Now().Add(lingering)
	c.wake()
}

// forget takes a lease's name away. It is called with the mutex held.
func (c *Coordinator) forget(l *lease) {
	delete(c.leases, l.id)
	if l.named {
		_ = os.Remove(filepath.Join(c.opts.ShimDir, l.id)) // what stays is removed by ClearShims
	}
}

// lingering is for how long a lease's name, and where its outputs are, are known after its build.
const lingering = 10 * time.Minute

// expire ends what has run out.
func (c *Coordinator) expire(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.leases {
		if !l.expires.IsZero() && now.After(l.expires) {
			c.release(l)
			c.forget(l)
		}
	}
	for path, r := range c.built {
		if now.After(r.until) {
			delete(c.built, path)
		}
	}
	for drv, at := range c.asked {
		if now.Sub(at) > lingering {
			delete(c.asked, drv)
		}
	}
}
