package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/httpstore"
	"github.com/voidnxlab/nixtrap/store/httpstore/upload"
)

// pushOptions are what push was told.
type pushOptions struct {
	to, tokenFile, netrcFile string
	compression              string
	signKeys                 []string
	jobs                     int
	queue                    string
	watch, watchStore, drv   bool
	queueGiven               bool
}

const nixNetrc = "/etc/nix/netrc" // Nix's own default

func (o *pushOptions) flags(set *flag.FlagSet) {
	set.StringVar(&o.to, "to", "", "`URL` of the cache to push to")
	set.StringVar(&o.tokenFile, "token-file", "", "`FILE` with a token; it is read again for each request")
	set.StringVar(&o.netrcFile, "netrc-file", "", "`FILE` with logins, as Nix reads it (default "+nixNetrc+" if it is there)")
	set.StringVar(&o.compression, "compression", "", "send archives as `KIND`: zstd, none (default as they are stored, else zstd)")
	set.Var(&list{values: &o.signKeys}, "sign-key", "secret key `FILE` to sign with (repeatable)")
	set.IntVar(&o.jobs, "jobs", 4, "push `N` paths at a time")
	set.StringVar(&o.queue, "queue", "", "push what is queued in `DIR`")
	set.BoolVar(&o.watch, "watch", false, "go on pushing what is queued, until stopped")
	set.BoolVar(&o.watchStore, "watch-store", false, "queue and push each path that becomes valid from now on, until stopped")
	set.BoolVar(&o.drv, "drv", false, "with --watch-store, derivations too")
}

// check refuses what contradicts itself.
func (o *pushOptions) check(cmd *command, words []string, env environ) error {
	o.queueGiven = o.queue != ""
	o.watch = o.watch || o.watchStore
	queued := o.queueGiven || o.watch
	switch {
	case o.to == "":
		return cmd.misuse("needs --to URL")
	case queued && len(words) > 0:
		return cmd.misuse("takes either PATHs or a queue")
	case !queued && len(words) == 0:
		return cmd.misuse("takes at least one PATH, or --queue DIR")
	case o.drv && !o.watchStore:
		return cmd.misuse("--drv is for --watch-store")
	case o.tokenFile != "" && o.netrcFile != "":
		return cmd.misuse("takes --token-file or --netrc-file, not both")
	case o.jobs < 1:
		return cmd.misuse("--jobs is at least 1")
	case o.compression != "" && o.compression != string(upload.Zstd) && o.compression != string(upload.None):
		return cmd.misuse(fmt.Sprintf("--compression %q is neither zstd nor none", o.compression))
	}
	if queued && !o.queueGiven {
		if o.queue = defaultQueue(env); o.queue == "" {
			return cmd.misuse("there is no state folder for a queue: name one with --queue DIR")
		}
	}
	return nil
}

// runPush pushes paths, or what is queued.
func (p *process) runPush(ctx context.Context, cmd *command, args []string) (err error) {
	c, o := defaultConfig(), &pushOptions{}
	set := cmd.flagSet()
	set.StringVar(&c.Store, "store", c.Store, "`STORE` to push from, as in narserved serve")
	o.flags(set)
	words, err := p.parse(cmd, set, args)
	if err == nil {
		err = o.check(cmd, words, p.env)
	}
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	shown := newProgress(p.stderr)
	client, err := o.client(p.env, shown.trace())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	s, err := c.openSource(ctx, p.env, slog.New(slog.DiscardHandler), "")
	if err != nil {
		return err
	}
	defer s.Close()
	pusher := &pusher{client: client, source: s, shown: shown}
	if o.queue == "" {
		return pusher.pushPaths(ctx, words)
	}
	w := &queueWorker{pusher: pusher, queue: queue{o.queue}, tried: make(map[string]bool)}
	if !o.watch {
		return w.workOff(ctx)
	}
	var newPaths registrations
	if o.watchStore {
		if newPaths, err = watchStore(ctx, s.Store, queue{o.queue}); err != nil {
			return err
		}
	}
	return w.watch(ctx, newPaths, o.drv)
}

// client makes the client that the options ask for.
func (o *pushOptions) client(env environ, trace *upload.Trace) (*upload.Client, error) {
	options := &upload.Options{Compression: upload.Compression(o.compression), Jobs: o.jobs, Trace: trace}
	var err error
	if len(o.signKeys) > 0 {
		if options.Keys, _, err = (&Config{SignKey: o.signKeys}).signingKeys(env); err != nil {
			return nil, err
		}
	}
	if options.Authorization, err = o.authorization(env); err != nil {
		return nil, err
	}
	client, err := upload.New(o.to, options)
	if err != nil {
		return nil, usageError{hint(err, "as in --to https://cache.example.org; --compression is a flag here")}
	}
	return client, nil
}

// authorization is where the credential comes from; nil: there is none, or it is in the URL.
func (o *pushOptions) authorization(env environ) (func(context.Context) (string, error), error) {
	if o.tokenFile != "" {
		file := credential(env, o.tokenFile)
		if _, err := readToken(file); err != nil {
			return nil, hint(fmt.Errorf("push: %w", err), "write a token of narserved token create into it, and nothing else")
		}
		// A token may be replaced while a queue is watched.
		return func(ctx context.Context) (string, error) {
			token, err := readToken(file)
			if err != nil {
				return "", err
			}
			return httpstore.Bearer(token)(ctx)
		}, nil
	}
	u, err := url.Parse(o.to)
	if err != nil || u.User != nil {
		return nil, nil // upload.New says what is wrong with it
	}
	file := o.netrcFile
	if file == "" {
		file = nixNetrc
	}
	text, err := os.ReadFile(credential(env, file))
	if err != nil {
		if o.netrcFile == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
			return nil, nil
		}
		return nil, fmt.Errorf("push: %w", err)
	}
	login := httpstore.Netrc(string(text), u.Hostname())
	if login == nil && o.netrcFile != "" {
		return nil, hint(fmt.Errorf("push: %s has no login for %s", o.netrcFile, u.Hostname()),
			fmt.Sprintf("add: machine %s login token password TOKEN", u.Hostname()))
	}
	return login, nil
}

func readToken(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	words := strings.Fields(string(text))
	if len(words) != 1 {
		return "", fmt.Errorf("%s is no file with one token", file)
	}
	return words[0], nil
}

// pusher pushes from a store to a cache.
type pusher struct {
	client *upload.Client
	source *source
	shown  *progress
}

// pushPaths pushes what the words mean, as query understands them.
func (p *pusher) pushPaths(ctx context.Context, words []string) error {
	var roots []narinfo.StorePath
	for _, word := range words {
		info, err := p.source.find(ctx, word)
		if err != nil {
			return err
		}
		roots = append(roots, info.StorePath)
	}
	report, err := p.client.Push(ctx, p.source.Store, roots...)
	sent := p.shown.end()
	if ctx.Err() != nil {
		return hint(fmt.Errorf("push: stopped after %d paths", len(report.Pushed)), "run it again to push the rest")
	}
	if err != nil {
		return p.advise(err)
	}
	p.shown.line("pushed %d of %d paths to %s, %s sent; the others were there",
		len(report.Pushed), report.Paths, p.client, megabytes(sent))
	return nil
}

// advise says what to do about a failed push; nil stays nil.
func (p *pusher) advise(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("push: %w", err)
	switch {
	case errors.Is(err, upload.ErrDenied):
		return hint(err, "a token of this very cache with the scope push is needed: "+
			"narserved token create --scope push, with --cache NAME for a named cache, and then --token-file")
	case errors.Is(err, http.ErrSchemeMismatch):
		return hint(err, "that server has no TLS: is it --to http://…?")
	case isDistrusted(err):
		return hint(err, "the server's certificate must be valid, for that name, and of an authority that this machine trusts; "+
			"SSL_CERT_FILE=FILE names a file with other authorities than the system's")
	case errors.Is(err, store.ErrCorrupt):
		return hint(err, "the path is damaged: copy it into the store again, or remove it")
	}
	return hint(err, "what was pushed stays: run it again to push the rest")
}

func isDistrusted(err error) bool {
	_, is := errors.AsType[*tls.CertificateVerificationError](err)
	return is
}
