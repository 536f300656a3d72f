package shim

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// builder is a connection to a machine's daemon. Like its client it does one thing at a time.
type builder struct {
	ticket *Ticket
	client *nixproto.Client
	moved  *counted
}

// counted is a connection of which the traffic is counted.
type counted struct {
	io.ReadWriteCloser
	mu   sync.Mutex // guards what follows
	sent int64
	last time.Time // when bytes last moved
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Read(p)
	c.count(n, 0)
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ReadWriteCloser.Write(p)
	c.count(n, n)
	return n, err
}

func (c *counted) count(moved, sent int) {
	if moved == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent += int64(sent)
	c.last = time.Now()
}

func (c *counted) counts() (sent int64, last time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent, c.last
}

// dialLimit is how long connecting to a builder and its daemon's greeting may take.
const dialLimit = 20 * time.Second

// dial connects to the daemon of a ticket's machine. events is told what it says while it works.
func dial(ctx context.Context, d Desk, t *Ticket, events func(nixproto.Event)) (*builder, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := d.Open(ctx, t)
	if err != nil {
		return nil, err
	}
	b := &builder{ticket: t, moved: &counted{ReadWriteCloser: conn, last: time.Now()}}
	b.client, err = nixproto.NewClient(ctx, b.moved, &nixproto.Options{OnEvent: events})
	if err != nil {
		return nil, fmt.Errorf("the daemon of %s: %w", t.Machine.Name, err)
	}
	return b, nil
}

// prepare tells the builder our settings, and copies what a build needs to it.
func (b *builder) prepare(ctx context.Context, local store.Store, inputs []narinfo.StorePath, l *Limits) error {
	err := b.client.SetOptions(ctx, &nixproto.Settings{
		KeepFailed: l.KeepFailed, MaxJobs: 1, MaxSilentTime: l.MaxSilent, UseSubstitutes: l.Substitute, Verbosity: 1,
		// A builder that has builders would pass the build on.
		Overrides: map[string]string{"builders": "", "timeout": fmt.Sprint(int64(l.Timeout / time.Second))},
	})
	if err != nil {
		return err
	}
	return b.send(ctx, local, inputs, l)
}

// explained adds to an error what to do where the builder does not trust us. Before Nix 2.15 a daemon only says it so.
func (b *builder) explained(err error) error {
	m, text := &b.ticket.Machine, err.Error()
	if b.client.Peer().Trust != nixproto.NotTrusted &&
		!strings.Contains(text, "valid signature") &&
		!strings.Contains(text, "not privileged") {
		return err
	}
	user := cmp.Or(m.User, "root")
	return fmt.Errorf("%w; %s does not trust %s, and takes from it only what has a signature that it trusts; "+
		"in its /etc/nix/nix.conf: extra-trusted-users = %s", err, m.Name, user, user)
}

// send copies those of the paths to the builder that it lacks. Whether it wants signatures is its own to say.
func (b *builder) send(ctx context.Context, local store.Store, paths []narinfo.StorePath, l *Limits) error {
	there, err := b.client.ValidPaths(ctx, paths, &nixproto.ValidPathsOptions{Substitute: l.Substitute})
	if err != nil {
		return err
	}
	missing, err := uploads(ctx, local, paths, there)
	if err != nil || len(missing) == 0 {
		return err
	}
	return b.client.AddMultipleToStore(ctx, nixproto.Uploads(missing...), &nixproto.AddOptions{DontCheckSigs: true})
}

// uploads are the paths that are not there, each behind those that it refers to.
func uploads(ctx context.Context, local store.Store, paths, there []narinfo.StorePath) ([]nixproto.Upload, error) {
	done := make(map[narinfo.StorePath]bool, len(paths))
	for _, p := range there {
		done[p] = true
	}
	missing := make(map[narinfo.StorePath]*narinfo.Info, len(paths)-len(there))
	for _, p := range paths {
		if done[p] {
			continue
		}
		info, err := store.Lookup(ctx, local, p)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", p, err)
		}
		missing[p] = info
	}
	var list []nixproto.Upload
	var visit func(narinfo.StorePath)
	visit = func(p narinfo.StorePath) {
		info := missing[p]
		if info == nil || done[p] {
			return
		}
		done[p] = true
		for _, r := range info.References {
			visit(r)
		}
		list = append(list, nixproto.Upload{
			Info: &nixproto.PathInfo{Info: info},
			Open: func(ctx context.Context) (io.ReadCloser, error) { return local.Open(ctx, info) },
		})
	}
	for _, p := range paths {
		visit(p)
	}
	return list, nil
}
