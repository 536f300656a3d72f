package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/daemon"
	"github.com/voidnxlab/nixtrap/offload/history"
	"github.com/voidnxlab/nixtrap/offload/shim"
	"github.com/voidnxlab/nixtrap/offload/ssh"
)

var _ shim.Desk = (*Coordinator)(nil)

func (l *lease) ticket() *shim.Ticket {
	return &shim.Ticket{Lease: l.id, Machine: l.machine.Machine, Request: l.request, Limits: l.limits}
}

// Take implements [shim.Desk].
func (c *Coordinator) Take(_ context.Context, program string) (*shim.Ticket, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.leases[program]
	if l == nil || !l.machine.running[l] {
		return nil, nil
	}
	return l.ticket(), nil
}

// Place implements [shim.Desk].
func (c *Coordinator) Place(ctx context.Context, w *shim.Wish) (*shim.Ticket, error) {
	if w.Request == nil {
		return nil, errors.New("coordinator: a wish without a request")
	}
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		q := &question{request: w.Request, limits: w.Limits, without: w.Without}
		switch choice, l := c.choose(ctx, q); choice.Verdict {
		case offload.Accept:
			return l.ticket(), nil
		case offload.Decline:
			return nil, fmt.Errorf("%w%s", shim.ErrNobody, c.reasons(&choice))
		}
		select {
		case <-changed:
		case <-time.After(c.opts.ReadEvery):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// maxReasons is how many machines an error speaks of.
const maxReasons = 5

// reasons says why no machine takes a build, machine by machine.
func (c *Coordinator) reasons(choice *offload.Choice) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var text strings.Builder
	for i, r := range choice.Ranking {
		if i == maxReasons {
			fmt.Fprintf(&text, "; and %d more", len(choice.Ranking)-i)
			break
		}
		fmt.Fprintf(&text, "; %s %s", r.Machine, r.Refusal)
		if m := c.fleet[r.Machine]; m != nil && m.lastError != "" && (r.Refusal == offload.CircuitOpen || r.Refusal == offload.Barred) {
			fmt.Fprintf(&text, " (%s)", m.lastError)
		}
	}
	return text.String()
}

// Open implements [shim.Desk].
func (c *Coordinator) Open(ctx context.Context, t *shim.Ticket) (io.ReadWriteCloser, error) {
	c.mu.Lock()
	m, l := c.fleet[t.Machine.Name], c.leases[t.Lease]
	if l != nil {
		l.expires = time.Time{}
	}
	c.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("coordinator: no machine %q any more", t.Machine.Name)
	}
	conn, err := c.openDaemon(ctx, m)
	if err != nil {
		c.broke(l, err)
		return nil, err
	}
	return &held{conn, c, l}, nil
}

// held is a connection whose end is that of its lease.
type held struct {
	io.ReadWriteCloser
	c     *Coordinator
	lease *lease // nil: it only fetches
}

// Read implements io.Reader.
func (h *held) Read(p []byte) (int, error) {
	n, err := h.ReadWriteCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		h.c.broke(h.lease, err)
	}
	return n, err
}

// Close implements io.Closer.
func (h *held) Close() error {
	if h.lease != nil {
		h.c.mu.Lock()
		defer h.c.mu.Unlock()
		h.c.release(h.lease)
	}
	return h.ReadWriteCloser.Close()
}

// broke notes why a lease's connection has ended.
func (c *Coordinator) broke(l *lease, err error) {
	if l == nil || errors.Is(err, ssh.ErrClosed) { // by us: who did it knows why
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.broken == nil {
		l.broken = err
	}
}

// openDaemon connects to a machine's Nix, in the protocol that it takes.
func (c *Coordinator) openDaemon(ctx context.Context, m *machine) (io.ReadWriteCloser, error) {
	c.mu.Lock()
	known := m.protocol
	c.mu.Unlock()
	conn, protocol, err := daemon.Open(ctx, &m.Machine, known,
		func(ctx context.Context, command string, stderr io.Writer) (io.ReadWriteCloser, error) {
			return c.opts.Transport.Open(ctx, &m.Machine, command, stderr)
		})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m.protocol = protocol
	return conn, nil
}

// Look implements [shim.Desk].
func (c *Coordinator) Look(ctx context.Context, machine string) (offload.Readings, error) {
	c.mu.Lock()
	m := c.fleet[machine]
	c.mu.Unlock()
	if m == nil {
		return offload.Readings{}, fmt.Errorf("coordinator: no machine %q", machine)
	}
	return c.readingsOf(ctx, &m.Machine)
}

// Where implements [shim.Desk].
func (c *Coordinator) Where(_ context.Context, output narinfo.StorePath) (*shim.Ticket, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.built[output]
	if !ok || c.fleet[r.machine] == nil {
		return nil, nil
	}
	return &shim.Ticket{Machine: c.fleet[r.machine].Machine}, nil
}

// leastSent is how much an upload must have to tell how fast the way to a machine is.
const leastSent = 1 << 20

// Settle implements [shim.Desk].
func (c *Coordinator) Settle(ctx context.Context, r *shim.Report) error {
	if r.Request == nil {
		return errors.New("coordinator: a report without a request")
	}
	c.mu.Lock()
	l, m := c.leases[r.Lease], c.fleet[r.Outcome.Machine]
	if l == nil && r.Outcome.Result == offload.Lost {
		c.mu.Unlock()
		return shim.ErrForgotten
	}
	cores := 0
	if m != nil {
		for _, p := range r.Outputs {
			c.built[p] = result{m.Name, time.Now().Add(lingering)}
		}
		if r.Sent >= leastSent && r.Sending > 0 {
			m.learn(float64(r.Sent) / r.Sending.Seconds())
		}
		cores = coresOf(&m.readings)
		switch r.Outcome.Result {
		case offload.Lost:
			if l.broken != nil { // the connection knows better than who was at its end
				r.Outcome.Detail = l.broken.Error()
			}
			m.lost(time.Now(), r.Outcome.Detail)
		case offload.Built, offload.Failed:
			m.losses, m.suspended = 0, time.Time{}
			if l != nil {
				m.hasAll(l.needs)
			}
			for _, p := range r.Outputs {
				m.note(p, true)
			}
		}
	}
	var decision int64
	if l != nil {
		decision = l.decision
		c.release(l)
	}
	c.mu.Unlock()
	c.log.Info("build ended", "drv", r.Request.DrvPath, "machine", r.Outcome.Machine, "result", r.Outcome.Result,
		"seconds", r.Outcome.Seconds, "detail", r.Outcome.Detail)
	if c.opts.History == nil {
		return nil
	}
	var errs []error
	if decision != 0 {
		errs = append(errs, c.opts.History.Finish(ctx, decision, &r.Outcome))
	}
	if r.Wall > 0 && m != nil {
		errs = append(errs, c.opts.History.Record(ctx, &history.Build{
			Request: r.Request, Machine: m.Name, Wall: r.Wall, CPU: r.CPU, Cores: cores, BytesIn: r.Sent,
			Result: r.Outcome.Result, Ended: r.Outcome.When,
		}))
	}
	return errors.Join(errs...)
}

// learn takes a measurement of a machine's bandwidth.
func (m *machine) learn(bandwidth float64) {
	if m.bandwidth == 0 {
		m.bandwidth = bandwidth
	}
	m.bandwidth += 0.3 * (bandwidth - m.bandwidth)
}
