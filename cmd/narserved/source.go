package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

// source is an open store.
type source struct {
	store.Store
	io.Closer
	name   string // for logs
	advice string // for the person who started us, "" usually

	bucket *bucket // the store, if this server writes to it; else nil
}

// openSource opens the configured store. The caller closes it. proofFile may be "".
func (c *Config) openSource(ctx context.Context, env environ, log *slog.Logger, proofFile string) (*source, error) {
	if c.writesToStore() {
		b, err := c.openBucket(ctx, c.Store, narinfo.DefaultStoreDir, "--store", log)
		if err != nil {
			return nil, err
		}
		return &source{Store: b.Store, Closer: b, name: c.Store, bucket: b}, nil
	}
	if strings.HasPrefix(c.Store, s3Scheme) {
		return openS3(ctx, c.Store, log)
	}
	if strings.HasPrefix(c.Store, fileScheme) {
		return openDirectory(c.Store, log)
	}
	options, err := localOptions(c.Store, env)
	if err != nil {
		return nil, err
	}
	options.Logger, options.ProofFile, options.MemoryCache = log, proofFile, int64(c.MemoryCache)
	local, err := localstore.Open(ctx, options)
	if errors.Is(err, localstore.ErrNoStore) && isAuto(c.Store) {
		return c.openOwnDirectory(env, log, err)
	}
	if err != nil {
		return nil, hint(err, "--store names another store: /ROOT, file:///DIR, s3://BUCKET, unix:///SOCKET or daemon")
	}
	return &source{Store: local, Closer: local, name: c.Store}, nil
}

func isAuto(uri string) bool {
	kind, _, _ := strings.Cut(uri, "?")
	return kind == "" || kind == "auto"
}

// localOptions reads the URI of a store on this machine. What it leaves open may come from the environment,
// as with Nix itself.
func localOptions(uri string, env environ) (*localstore.Options, error) {
	o, err := localstore.ParseURI(uri)
	if err != nil {
		return nil, usageError{hint(err, "see narserved help serve for the stores that there are")}
	}
	if o.Root != "" {
		return o, nil
	}
	for _, v := range []struct {
		field *string
		name  string
	}{
		{&o.StoreDir, "NIX_STORE_DIR"}, {&o.StateDir, "NIX_STATE_DIR"}, {&o.LogDir, "NIX_LOG_DIR"},
	} {
		if *v.field == "" {
			*v.field = env[v.name]
		}
	}
	if o.DaemonSocket == "" && !o.NoDaemon {
		o.DaemonSocket = env["NIX_DAEMON_SOCKET_PATH"]
	}
	return o, nil
}

// openDirectory opens the binary cache that file://DIR names.
func openDirectory(uri string, log *slog.Logger) (*source, error) {
	dir, err := directoryOf(uri)
	if err != nil {
		return nil, err
	}
	bucket, err := bucketstore.Open(dir, &bucketstore.Options{Logger: log})
	if err != nil {
		return nil, hint(err, fmt.Sprintf("fill it first: nix copy --to file://%s PATH", dir))
	}
	return &source{Store: bucket, Closer: bucket, name: uri}, nil
}

// openOwnDirectory serves a directory of our own on a machine without a Nix store, and says so.
func (c *Config) openOwnDirectory(env environ, log *slog.Logger, why error) (*source, error) {
	base := homeDir(env, "XDG_DATA_HOME", ".local/share")
	if base == "" {
		base = c.StateDir
	}
	if base == "" {
		return nil, hint(why, "name a store with --store")
	}
	dir := filepath.Join(base, "cache")
	bucket, err := bucketstore.Create(dir, narinfo.CacheInfo{WantMassQuery: true}, &bucketstore.Options{Logger: log})
	if err != nil {
		return nil, hint(err, "name a directory with --store file:///DIR")
	}
	s := &source{Store: bucket, Closer: bucket, name: "file://" + dir}
	log.Warn("this machine has no Nix store: serving a directory instead", "directory", dir, "reason", why)
	s.advice = fmt.Sprintf(`This machine has no Nix store, so the binary cache in %s is served.
Fill it on a machine with Nix, and bring its files here:

    nix copy --to file:///tmp/cache $(nix build --print-out-paths nixpkgs#hello)
    rsync -a /tmp/cache/ THIS-MACHINE:%s/

Or name another store: narserved serve --store file:///DIR (see narserved help serve).`, dir, dir)
	return s, nil
}
