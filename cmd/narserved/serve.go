package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/token"
	"github.com/voidnxlab/nixtrap/internal/plainhttp"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/artefact"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

const (
	headerTimeout  = 10 * time.Second // for a request's header, and for a TLS handshake
	idleTimeout    = 2 * time.Minute  // between two requests on a connection
	maxHeaderBytes = 64 << 10
)

// server is a running narserved.
type server struct {
	config  *Config
	log     *slog.Logger
	source  *source
	kept    *bucket // of upstreams' paths, if that is not the source itself; else nil
	up      *upstreams
	made    *artefact.Cache // nil: the source keeps archives itself
	traffic *traffic
	started time.Time
	http    *http.Server
	plain   plainhttp.Server // in front of http on all but TLS
	admin   *http.Server
	reload  func() // reads certificates again
	access  httpcache.Authorizer
	known   closers // of access
}

// runServe reads flags and file, and serves.
func (p *process) runServe(ctx context.Context, cmd *command, args []string) error {
	c, err := p.serveConfig(cmd, args)
	if err != nil {
		return err
	}
	return p.serve(ctx, c)
}

func (p *process) serveConfig(cmd *command, args []string) (*Config, error) {
	c, words, err := p.configFlags(cmd, args, (*Config).flags)
	if err != nil {
		return nil, err
	}
	if len(words) > 0 {
		return nil, cmd.misuse(fmt.Sprintf("takes no arguments, but got %q", words[0]))
	}
	return c, c.complete(p.env)
}

// configFlags reads the flags that bind defines twice: to find the configuration file, and then over what that says.
// It returns the words between them, too.
func (p *process) configFlags(
	cmd *command, args []string, bind func(*Config, *flag.FlagSet),
) (c *Config, words []string, err error) {
	c = defaultConfig()
	for _, readFile := range []bool{true, false} {
		set := cmd.flagSet()
		bind(c, set)
		file := set.String("config", "", "TOML `FILE` with keys that are named like the server's flags, which override it")
		if words, err = p.parse(cmd, set, args); err != nil {
			return nil, nil, err
		}
		if readFile && *file != "" {
			c = defaultConfig()
			if err := c.readConfig(*file); err != nil {
				return nil, nil, err
			}
		}
		c.file = *file
	}
	return c, words, nil
}

// serve runs a server until ctx ends or a signal tells it to stop, and then drains it.
func (p *process) serve(ctx context.Context, c *Config) (err error) {
	log, err := newLogger(p.stderr, c.LogFormat, c.LogLevel)
	if err != nil {
		return err
	}
	listeners, err := c.listen(ctx)
	if err != nil {
		return err
	}
	defer listeners.close()
	proofs := filepath.Join(c.StateDir, "proofs.sqlite")
	if err := c.makeStateDir(); err != nil {
		log.Warn("no state folder: what is proved of the store is forgotten at exit", "folder", c.StateDir, "error", err)
		proofs = ""
	}
	s := &server{config: c, log: log, started: time.Now(), traffic: newTraffic(log)}
	if s.source, err = c.openSource(ctx, p.env, log, proofs); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.source.Close()) }()
	if s.made, err = c.openArtefacts(p.env, log, s.source); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.closeArtefacts()) }()
	if err := s.openUpstreams(ctx, p.env); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.closeUpstreams()) }()
	defer func() { err = errors.Join(err, s.closeAccess()) }()
	if err := s.openAccess(ctx); err != nil {
		return err
	}
	signals := make(chan os.Signal, 4) // from before it says that it listens: who reads that may stop it at once
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := s.build(p, listeners); err != nil {
		return err
	}
	return s.run(ctx, listeners, signals)
}

// openUpstreams opens where what is pulled through is kept, and then what it is pulled from.
func (s *server) openUpstreams(ctx context.Context, env environ) (err error) {
	c, dir := s.config, s.source.StoreDir()
	if keep := c.keepURI(); keep != "" && s.source.bucket == nil {
		if s.kept, err = c.openBucket(ctx, keep, dir, "--keep", s.log); err != nil {
			return err
		}
	}
	if s.up, err = c.openUpstreams(env, dir, s.log); err != nil && s.kept != nil {
		err = errors.Join(err, s.kept.Close())
	}
	return err
}

func (s *server) closeUpstreams() error {
	err := s.up.Close()
	if s.kept != nil {
		err = errors.Join(err, s.kept.Close())
	}
	return err
}

// makeStateDir makes the state folder and sees whether it can be written to.
func (c *Config) makeStateDir() error {
	if c.StateDir == "" {
		return errors.New("the environment names no home")
	}
	if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
		return err
	}
	return unix.Access(c.StateDir, unix.W_OK)
}

// build makes the handlers and their servers. It comes after all that may fail in other ways, for it may make a key,
// and then tells people so, once.
func (s *server) build(p *process, l listening) error {
	tlsConfig, reload, err := s.config.tlsConfig(p.env, s.log)
	if err != nil {
		return err
	}
	keys, made, err := s.config.signingKeys(p.env)
	if err != nil {
		return err
	}
	cache, err := s.cacheHandler(keys)
	if err != nil {
		return err
	}
	if cache, err = s.namedCaches(p, cache, keys); err != nil {
		return err
	}
	s.reload = reload
	s.http = s.newHTTPServer(s.traffic.count(cache), tlsConfig)
	s.plain.HTTP = s.http
	s.admin = s.newHTTPServer(s.adminHandler(cache), nil)

	url := s.announce(l.cache, keys)
	if s.source.advice != "" {
		fmt.Fprintf(p.stderr, "\n%s\n", s.source.advice)
	}
	if made {
		fmt.Fprintf(p.stderr, "\nA signing key was made in %s.\n%s\n", s.config.StateDir, clientLines(url, keys))
	}
	return nil
}

// openAccess opens what tells who sends a request.
func (s *server) openAccess(ctx context.Context) error {
	tokens, closer, err := s.openTokens(ctx)
	if err != nil {
		return err
	}
	s.known = closers{closer}
	if s.access, closer, err = s.config.access(tokens, s.log); err == nil {
		s.known = append(closers{closer}, s.known...)
	}
	return err
}

// openTokens opens where tokens are looked up, nil if there are none. A bucket's catalog is used where it is open.
func (s *server) openTokens(ctx context.Context) (token.Store, io.Closer, error) {
	c := s.config
	if isPostgreSQL(c.Catalog) {
		for _, b := range []*bucket{s.source.bucket, s.kept} {
			if b != nil {
				return c.sharedTokens(b.catalog), io.NopCloser(nil), nil
			}
		}
	} else if c.TokenFile == "" {
		return nil, io.NopCloser(nil), nil
	}
	return c.openTokens(ctx, s.log)
}

func (s *server) closeAccess() error { return s.known.Close() }

func (s *server) cacheHandler(keys []*signing.SecretKey) (http.Handler, error) {
	served, inbox, err := s.layers(keys)
	if err != nil {
		return nil, err
	}
	policy, err := s.config.policy(s.source, served, s.log)
	if err != nil {
		return nil, err
	}
	options := &httpcache.Options{
		Keys:     keys,
		Priority: s.config.Priority,
		Policy:   policy,
		Logger:   s.log,
		Trace:    s.traffic.trace(),
		Access:   s.access,
		Private:  s.config.Private,

		NoUploads: "this cache takes no uploads: serve it with --upload and --store file:///DIR or s3://BUCKET",
	}
	if s.made != nil {
		options.Artefacts = s.made
	}
	if s.config.Upload {
		takeUploads(options, inbox)
	}
	return httpcache.New(served, options)
}

// layers puts together what is served: the store, what is kept of upstreams, and these. The inbox is nil where nothing is
// written.
func (s *server) layers(keys []*signing.SecretKey) (store.Store, *bucketstore.Inbox, error) {
	own := []store.Store{s.source.Store}
	into := s.source.bucket
	if s.kept != nil {
		own, into = append(own, s.kept.Store), s.kept
	}
	if into == nil {
		served, err := s.up.layer(own...)
		return served, nil, err
	}
	inbox, err := into.inbox("", s.config, s.config.UploadKey, keys, s.up, s.log)
	if err == nil && s.config.keepURI() != "" {
		err = s.up.keep(inbox, s.config.tempDir(), s.log)
	}
	if err != nil {
		return nil, nil, err
	}
	served, err := s.up.layer(own...)
	return served, inbox, err
}

// newHTTPServer has no WriteTimeout, for archives may be long: the cache's handler cuts off who stops reading.
func (s *server) newHTTPServer(handler http.Handler, tlsConfig *tls.Config) *http.Server {
	return &http.Server{
		Handler:   handler,
		TLSConfig: tlsConfig,
		// OPTIONS * is one of the methods that the handler refuses.
		DisableGeneralOptionsHandler: true,

		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(serverLog{s.log}, "", 0),
		HTTP2:             &http.HTTP2Config{SendPingTimeout: idleTimeout, WriteByteTimeout: httpcache.DefaultWriteStall},
	}
}

// serverLog logs what net/http has to say: panics are our fault, the rest the clients'.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Write(p []byte) (int, error) {
	level := slog.LevelDebug
	if bytes.Contains(p, []byte("panic")) {
		level = slog.LevelError
	}
	l.log.Log(context.Background(), level, "http server", "message", string(bytes.TrimSpace(p)))
	return len(p), nil
}

// run serves until it is told to stop or a listener fails.
func (s *server) run(ctx context.Context, l listening, signals <-chan os.Signal) error {
	var group errgroup.Group
	failed := make(chan struct{}, 1)
	for _, listener := range l.cache {
		group.Go(func() error { return told(failed, s.serveCache(listener)) })
	}
	for _, listener := range l.admin {
		group.Go(func() error { return told(failed, s.admin.Serve(listener)) })
	}
	petting, stopPetting := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return watchdog(petting, s.log, s.http.Handler) })

	notifyReady(s.log)
	s.waitForStop(ctx, signals, failed)
	s.drain(signals)
	_ = s.admin.Close()
	stopPetting()
	return group.Wait()
}

// serveCache speaks TLS on TCP if there is a certificate; unix sockets are for proxies on this machine, and plain.
func (s *server) serveCache(l net.Listener) error {
	if s.http.TLSConfig != nil && l.Addr().Network() == "tcp" {
		return s.http.ServeTLS(l, "", "")
	}
	return s.plain.Serve(l)
}

// told passes on why a listener is not served any more, and says that it failed unless it was closed.
func told(failed chan<- struct{}, err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	select {
	case failed <- struct{}{}:
	default: // another one has told already
	}
	return fmt.Errorf("serve: %w", err)
}
