package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/httpstore"
	"github.com/voidnxlab/nixtrap/store/pullthrough"
)

const (
	nixosHost    = "cache.nixos.org"
	nixosKeyName = "cache.nixos.org-1"
	nixosKey     = nixosKeyName + ":6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

	maxElsewhere = 16 // references that are looked up at once
)

// upstream is a remote cache that is asked for what is not here, and what came of it.
type upstream struct {
	remote   *httpstore.Store
	pulled   *pullthrough.Store // nil: what it has is passed on and not kept
	complete bool               // references of uploads may be there

	leftAlone                                                     atomic.Bool
	last                                                          atomic.Value // httpstore.Result of the last look-up that was a request
	found, absent, stale, failed, refused                         atomic.Int64
	resumed, damaged                                              atomic.Int64
	began, joined, stored, storedBytes, unneeded, notKept, direct atomic.Int64
}

func (u *upstream) isComplete() bool { return u.complete }

// upstreams are all of a server's, in their order. There may be none.
type upstreams struct {
	all []*upstream
}

// openUpstreams makes no request.
func (c *Config) openUpstreams(env environ, storeDir string, log *slog.Logger) (*upstreams, error) {
	netrc := ""
	if c.UpstreamNetrc != "" {
		text, err := os.ReadFile(credential(env, c.UpstreamNetrc))
		if err != nil {
			return nil, hint(fmt.Errorf("upstream-netrc: %w", err), "name a file as Nix's netrc-file")
		}
		netrc = string(text)
	}
	all := &upstreams{}
	for _, at := range c.Upstream {
		u, err := c.newUpstream(at, netrc, storeDir, log)
		if err != nil {
			return nil, errors.Join(err, all.Close())
		}
		all.all = append(all.all, u)
	}
	return all, nil
}

func (c *Config) newUpstream(at, netrc, storeDir string, log *slog.Logger) (*upstream, error) {
	keys, err := c.upstreamKeys(at)
	if err != nil {
		return nil, err
	}
	u := &upstream{complete: slices.Contains(c.UpstreamComplete, at)}
	options := &httpstore.Options{
		StoreDir: storeDir, TrustedKeys: keys, LookupBudget: time.Duration(c.UpstreamBudget),
		NegativeTTL: time.Duration(c.UpstreamTTLNegative), TempDir: c.tempDir(), Logger: log,
		Trace: &httpstore.Trace{
			Lookup: u.lookedUp, Opened: u.leftAlone.Store, Resumed: func() { u.resumed.Add(1) },
			Damaged: func(narinfo.StorePath) { u.damaged.Add(1) },
		},
	}
	if options.NegativeTTL == 0 {
		options.NegativeTTL = -1
	}
	if parsed, err := url.Parse(at); err == nil {
		options.Authorization = httpstore.Netrc(netrc, parsed.Hostname())
	}
	if u.remote, err = httpstore.New(at, options); err != nil {
		return nil, usageError{hint(err, "an upstream is http[s]://HOST[/PATH]")}
	}
	return u, nil
}

// upstreamKeys are the keys of which one must have signed what an upstream has.
func (c *Config) upstreamKeys(at string) (signing.Keyring, error) {
	keys, err := publicKeys("upstream-key", c.UpstreamKey)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "https" || u.Host != nixosHost ||
		slices.ContainsFunc(keys, func(k signing.PublicKey) bool { return k.Name() == nixosKeyName }) {
		return keys, nil
	}
	known, err := signing.ParseKeyring(nixosKey)
	return append(known, keys...), err
}

// tempDir is where archives lie while they arrive: the state folder, for /tmp may be memory; "" if that cannot be used.
func (c *Config) tempDir() string {
	if c.StateDir == "" || unix.Access(c.StateDir, unix.W_OK) != nil {
		return ""
	}
	return c.StateDir
}

// keep has what is read from the upstreams kept in an inbox.
func (u *upstreams) keep(inbox *bucketstore.Inbox, temp string, log *slog.Logger) (err error) {
	for _, one := range u.all {
		keeper := &bucketstore.Keeper{
			Inbox: inbox, From: one.remote.String(), Elsewhere: u.elsewhere(func(*upstream) bool { return true }),
		}
		one.pulled, err = pullthrough.New(one.remote, keeper, &pullthrough.Options{
			TempDir: temp, Logger: log, Trace: &pullthrough.Trace{
				Began:  func(narinfo.StorePath) { one.began.Add(1) },
				Joined: func(narinfo.StorePath) { one.joined.Add(1) },
				Stored: func(_ narinfo.StorePath, size int64) {
					one.stored.Add(1)
					one.storedBytes.Add(size)
				},
				Unneeded: func(narinfo.StorePath) { one.unneeded.Add(1) },
				Failed:   func(narinfo.StorePath, error) { one.notKept.Add(1) },
				Direct:   func(narinfo.StorePath) { one.direct.Add(1) },
			},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// layer puts the server's own stores, in their order, before the upstreams. One alone it leaves as it is.
func (u *upstreams) layer(own ...store.Store) (store.Store, error) {
	if len(own) == 1 && len(u.all) == 0 {
		return own[0], nil
	}
	var groups [][]store.Store
	for _, s := range own {
		groups = append(groups, []store.Store{s})
	}
	var far []store.Store
	for _, one := range u.all {
		if one.pulled != nil {
			far = append(far, optional{one.pulled})
		} else {
			far = append(far, optional{one.remote})
		}
	}
	return store.NewLayered(append(groups, far)...)
}

// Close ends downloads, and then look-ups.
func (u *upstreams) Close() error {
	var errs []error
	for _, one := range u.all {
		if one.pulled != nil {
			errs = append(errs, one.pulled.Close())
		}
	}
	for _, one := range u.all {
		errs = append(errs, one.remote.Close())
	}
	return errors.Join(errs...)
}

// elsewhere looks for paths in those of the upstreams that which selects; nil if that is none.
func (u *upstreams) elsewhere(which func(*upstream) bool) bucketstore.Elsewhere {
	var asked []*upstream
	for _, one := range u.all {
		if which(one) {
			asked = append(asked, one)
		}
	}
	if asked == nil {
		return nil
	}
	return func(ctx context.Context, paths []narinfo.StorePath) ([]narinfo.StorePath, error) {
		absent := make([]bool, len(paths))
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(maxElsewhere)
		for i, path := range paths {
			group.Go(func() (err error) {
				absent[i], err = absentFrom(ctx, asked, path)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		var missing []narinfo.StorePath
		for i, path := range paths {
			if absent[i] {
				missing = append(missing, path)
			}
		}
		return missing, nil
	}
}

// absentFrom reports whether none of the upstreams has a path. An error means that one which might could not be asked.
func absentFrom(ctx context.Context, asked []*upstream, path narinfo.StorePath) (bool, error) {
	var failures []error
	for _, one := range asked {
		_, err := store.Lookup(ctx, one.remote, path)
		if err == nil {
			return false, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			failures = append(failures, err)
		}
	}
	return true, errors.Join(failures...)
}

// remoteStore is what an upstream is able to do.
type remoteStore interface {
	store.Store
	store.ArchiveOpener
	store.LogOpener
	store.RealisationOpener
}

// optional is an upstream that is as good as empty while it cannot be asked. A fault would be worse for clients: Nix
// tries it five times for each path, and then fails a build that another cache or its own machine could do.
// What was found and cannot be opened is a fault all the same.
type optional struct{ remoteStore }

// Info implements [store.Store].
func (o optional) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	info, err := o.remoteStore.Info(ctx, hash)
	return info, asAbsence(ctx, err)
}

// OpenLog implements [store.LogOpener].
func (o optional) OpenLog(ctx context.Context, drv narinfo.StorePath) (io.ReadCloser, error) {
	r, err := o.remoteStore.OpenLog(ctx, drv)
	return r, asAbsence(ctx, err)
}

// Realisation implements [store.RealisationOpener].
func (o optional) Realisation(ctx context.Context, id string) ([]byte, error) {
	text, err := o.remoteStore.Realisation(ctx, id)
	return text, asAbsence(ctx, err)
}

func asAbsence(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, store.ErrNotFound) || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w (%w)", store.ErrNotFound, err)
}

// keepURI is the bucket where what upstreams are asked for is kept, "" for nowhere.
func (c *Config) keepURI() string {
	switch {
	case len(c.Upstream) == 0 || c.Keep == none:
		return ""
	case isBucket(c.Keep):
		return c.Keep
	case c.Keep != auto:
		return (&url.URL{Scheme: "file", Path: filepath.Clean(c.Keep)}).String()
	case c.Upload:
		return c.Store
	}
	return ""
}

// writesToStore reports whether the store that is served is a bucket that this server writes to.
func (c *Config) writesToStore() bool {
	return c.Upload || c.keepURI() != "" && sameBucket(c.keepURI(), c.Store)
}

func sameBucket(a, b string) bool {
	dir, err := directoryOf(a)
	other, otherErr := directoryOf(b)
	if err != nil || otherErr != nil {
		return a == b
	}
	return filepath.Clean(dir) == filepath.Clean(other)
}

// checkUpstreams refuses settings about upstreams that are none or contradict each other.
func (c *Config) checkUpstreams() error {
	if len(c.Upstream) == 0 {
		return c.checkNoUpstreams()
	}
	seen := make(map[string]bool)
	for _, at := range c.Upstream {
		if u, err := url.Parse(at); err == nil && u.User != nil {
			return usageError{hint(fmt.Errorf("upstream: %q has a login, which is no secret there", u.Redacted()),
				"--upstream-netrc names a file with logins")}
		}
		u, err := c.newUpstream(at, "", "", slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		_ = u.remote.Close()
		if keys, err := c.upstreamKeys(at); err != nil || len(keys) == 0 {
			return usageError{hint(fmt.Errorf("upstream: there is no key for %s, so nothing of it could be trusted", at),
				"give its public key with --upstream-key")}
		}
		if seen[u.remote.String()] {
			return usageError{hint(fmt.Errorf("upstream: %s is there twice", at), "name it once")}
		}
		seen[u.remote.String()] = true
	}
	for _, at := range c.UpstreamComplete {
		if !slices.Contains(c.Upstream, at) {
			return usageError{hint(fmt.Errorf("upstream-complete: %q is no upstream", at), "name it as upstream does")}
		}
	}
	switch {
	case c.UpstreamBudget <= 0:
		return usageError{hint(fmt.Errorf("upstream-budget: %s is no time to answer in", c.UpstreamBudget), "2s is the default")}
	case c.UpstreamTTLNegative < 0:
		return usageError{hint(fmt.Errorf("upstream-ttl-negative: %s is negative", c.UpstreamTTLNegative),
			"use 0s to remember nothing")}
	case c.keepURI() != "" && checkBucket(c.keepURI()) != nil:
		return usageError{hint(fmt.Errorf("keep: %q is no absolute path", c.Keep), "use auto, none or /DIR")}
	case c.Upload && c.keepURI() != "" && !sameBucket(c.keepURI(), c.Store):
		return usageError{hint(errors.New("keep: a server that takes uploads keeps what it pulls with them"),
			"use auto or none")}
	}
	return nil
}

// checkNoUpstreams refuses settings that would have no effect.
func (c *Config) checkNoUpstreams() error {
	for name, set := range map[string]bool{
		"upstream-key": len(c.UpstreamKey) > 0, "upstream-complete": len(c.UpstreamComplete) > 0,
		"upstream-netrc": c.UpstreamNetrc != "", "keep": c.Keep != auto && c.Keep != none,
	} {
		if set {
			return usageError{hint(fmt.Errorf("%s does nothing without an upstream", name), "add --upstream URL")}
		}
	}
	return nil
}

// lookedUp counts how look-ups end, and remembers how the last request did.
func (u *upstream) lookedUp(r httpstore.Result, _ time.Duration) {
	switch r {
	case httpstore.ResultFound:
		u.found.Add(1)
	case httpstore.ResultAbsent:
		u.absent.Add(1)
	case httpstore.ResultStale:
		u.stale.Add(1)
	case httpstore.ResultFailed:
		u.failed.Add(1)
	case httpstore.ResultRefused:
		u.refused.Add(1)
	case httpstore.ResultCached:
		return
	}
	u.last.Store(r)
}

// upstreamStatus is what /status says of an upstream. Counters begin at zero with the process.
type upstreamStatus struct {
	URL      string `json:"url"`
	State    string `json:"state"` // unused, up, failing (the last look-up), left alone (after repeated failures)
	Complete bool   `json:"complete"`

	// Look-ups, those answered from memory left out.
	Found   int64 `json:"found"`
	Absent  int64 `json:"absent"`
	Stale   int64 `json:"stale"` // an error, but there was an old answer
	Failed  int64 `json:"failed"`
	Refused int64 `json:"refused"` // while it was left alone

	// Archives.
	Resumed   int64 `json:"resumed"` // taken up again where they were cut
	Damaged   int64 `json:"damaged"`
	Pulled    int64 `json:"pulled"` // downloads to be kept
	Joined    int64 `json:"joined"` // answers from one that was under way for another client
	Kept      int64 `json:"kept"`
	KeptBytes int64 `json:"kept_bytes"`
	Unneeded  int64 `json:"unneeded"`  // they had come here meanwhile
	NotKept   int64 `json:"not_kept"`  // because one or the other has failed
	PassedOn  int64 `json:"passed_on"` // for want of room where they arrive
}

func (u *upstreams) status() []upstreamStatus {
	all := []upstreamStatus{}
	for _, one := range u.all {
		all = append(all, upstreamStatus{
			URL: one.remote.String(), State: one.state(), Complete: one.complete, Found: one.found.Load(),
			Absent: one.absent.Load(), Stale: one.stale.Load(), Failed: one.failed.Load(), Refused: one.refused.Load(),
			Resumed: one.resumed.Load(), Damaged: one.damaged.Load(), Pulled: one.began.Load(), Joined: one.joined.Load(),
			Kept: one.stored.Load(), KeptBytes: one.storedBytes.Load(), Unneeded: one.unneeded.Load(),
			NotKept: one.notKept.Load(), PassedOn: one.direct.Load(),
		})
	}
	return all
}

func (u *upstream) state() string {
	last, _ := u.last.Load().(httpstore.Result)
	switch {
	case u.leftAlone.Load():
		return "left alone"
	case last == "":
		return "unused"
	case last == httpstore.ResultFound || last == httpstore.ResultAbsent:
		return "up"
	}
	return "failing"
}
