package coordinator

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/drv"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// need is a path that a build needs.
type need struct {
	path narinfo.StorePath
	size int64 // of its NAR, in bytes
}

// closures says what builds need. Paths that were looked up once are remembered: what a path refers to never changes, and
// one that is deleted meanwhile only makes an estimate wrong.
type closures struct {
	store.Store
	root string // the folder in which the store's folder is

	mu    sync.Mutex // guards infos
	infos map[narinfo.HashPart]*narinfo.Info
}

// maxRemembered bounds the paths that are remembered, of this machine's store and of each builder's.
const maxRemembered = 100_000

// Info implements [store.Store].
func (c *closures) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	c.mu.Lock()
	info := c.infos[hash]
	c.mu.Unlock()
	if info != nil {
		return info, nil
	}
	info, err := c.Store.Info(ctx, hash)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.infos == nil || len(c.infos) >= maxRemembered {
		c.infos = make(map[narinfo.HashPart]*narinfo.Info)
	}
	c.infos[hash] = info
	return info, nil
}

// of returns all that a derivation's build needs.
func (c *closures) of(ctx context.Context, drvPath string) ([]need, error) {
	inputs, err := drv.Inputs(c.root, drvPath)
	if err != nil {
		return nil, err
	}
	roots := make([]narinfo.StorePath, len(inputs))
	for i, text := range inputs {
		if roots[i], err = narinfo.ParseStorePath(text); err != nil {
			return nil, err
		}
	}
	all, err := store.Closure(ctx, c, roots...)
	if err != nil {
		return nil, err
	}
	needs := make([]need, len(all))
	for i, info := range all {
		needs[i] = need{info.StorePath, info.NarSize}
	}
	return needs, nil
}

// needsLimit is for how long a decision waits to learn what a build needs; it is not made without an answer for long.
const needsLimit = 50 * time.Millisecond

// needs returns all that a build needs, nil if that is not to be found out in time.
func (c *Coordinator) needs(ctx context.Context, drvPath string) []need {
	if c.closures == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, needsLimit)
	defer cancel()
	needs, err := c.closures.of(ctx, drvPath)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		c.log.Debug("inputs not known", "drv", drvPath, "error", err)
	}
	return needs
}

// missing is the size of what a machine lacks of what a build needs, nil if nothing is known of that, and of what is not
// known. It is called with the coordinator's mutex held.
func (m *machine) missing(needs []need) (lacking *int64, unknown int64) {
	for _, n := range needs {
		there, ok := m.has[n.path]
		if !ok {
			unknown += n.size
			continue
		}
		if lacking == nil {
			lacking = new(int64)
		}
		if !there {
			*lacking += n.size
		}
	}
	return lacking, unknown
}

// hasAll notes that a machine has what a build needed. It is called with the coordinator's mutex held.
func (m *machine) hasAll(needs []need) {
	for _, n := range needs {
		m.note(n.path, true)
	}
}

func (m *machine) note(path narinfo.StorePath, there bool) {
	if m.has == nil || len(m.has) >= maxRemembered {
		m.has = make(map[narinfo.StorePath]bool)
	}
	m.has[path] = there
}

const (
	// hasHolds is for how long what a machine has is believed: its garbage collector says nothing.
	hasHolds = time.Hour
	// askEvery is how often a machine is asked what it has.
	askEvery = 10 * time.Second
	askLimit = 20 * time.Second
	// askers is how many machines are asked at a time.
	askers = 4
)

// inquiry asks a machine which paths it has.
type inquiry struct {
	machine *machine
	paths   []narinfo.StorePath
}

// inquire has a machine asked for what is not known of it, for the next decision. It is called with the mutex held, and
// waits for nothing.
func (c *Coordinator) inquire(m *machine, needs []need, now time.Time) {
	if len(needs) == 0 || now.Sub(m.asked) < askEvery || m.breaker(c.opts.Transport, now) != offload.BreakerClosed {
		return
	}
	if now.Sub(m.learned) > hasHolds {
		m.has, m.learned = nil, now
	}
	var unknown []narinfo.StorePath
	for _, n := range needs {
		if _, ok := m.has[n.path]; !ok {
			unknown = append(unknown, n.path)
		}
	}
	if len(unknown) == 0 {
		return
	}
	select {
	case c.inquiries <- &inquiry{m, unknown}:
		m.asked = now
	default: // there are enough
	}
}

// answerInquiries asks machines until ctx ends.
func (c *Coordinator) answerInquiries(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-c.inquiries:
			there, err := c.ask(ctx, q)
			if err != nil {
				c.log.Debug("a builder does not say what it has", "machine", q.machine.Name, "error", err)
				continue
			}
			c.mu.Lock()
			for _, p := range q.paths {
				if !q.machine.has[p] { // a build may have brought it meanwhile
					q.machine.note(p, there[p])
				}
			}
			c.mu.Unlock()
		}
	}
}

func (c *Coordinator) ask(ctx context.Context, q *inquiry) (map[narinfo.StorePath]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	conn, err := c.openDaemon(ctx, q.machine)
	if err != nil {
		return nil, err
	}
	client, err := nixproto.NewClient(ctx, conn, nil)
	if err != nil {
		return nil, err
	}
	valid, err := client.ValidPaths(ctx, q.paths, nil)
	if err = errors.Join(err, client.Close()); err != nil {
		return nil, err
	}
	there := make(map[narinfo.StorePath]bool, len(valid))
	for _, p := range valid {
		there[p] = true
	}
	return there, nil
}
