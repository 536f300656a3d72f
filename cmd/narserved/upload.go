package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/internal/background"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// uploads is what a server that takes uploads has beside the cache at its bucket's root.
type uploads struct {
	files   bucketFiles
	caches  map[string]*bucketstore.Store // by name; "" is the root's
	catalog *catalog.Catalog
	closer  io.Closer        // of the catalog
	work    *background.Work // what the catalog does by itself
}

// openUploads opens the bucket to upload to, with all of its caches, and its catalog.
func (c *Config) openUploads(ctx context.Context, log *slog.Logger) (_ *source, err error) {
	u := &uploads{work: background.New(), caches: make(map[string]*bucketstore.Store)}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.Close())
		}
	}()
	if u.catalog, u.closer, err = openCatalog(ctx, c.Catalog, log); err != nil {
		return nil, err
	}
	if u.files, err = openFiles(ctx, c.Store); err != nil {
		return nil, err
	}
	names := []string{""}
	for _, named := range c.Cache {
		names = append(names, named.Name)
	}
	for _, name := range names {
		u.caches[name], err = bucketstore.CreateFiles(ctx, u.files, narinfo.CacheInfo{WantMassQuery: true}, &bucketstore.Options{
			Cache: name, Logger: log, Used: func(hash narinfo.HashPart) { u.catalog.Touch(name, hash) },
			Holds: func(ctx context.Context, key string) (bool, error) { return u.catalog.Holds(ctx, name, key) },
		})
		if err != nil {
			return nil, hint(err, "--store names another bucket")
		}
	}
	u.work.Start(func(ctx context.Context) { _ = u.catalog.Run(ctx) })
	return &source{Store: u.caches[""], Closer: u, name: c.Store, uploads: u}, nil
}

// Close implements io.Closer.
func (u *uploads) Close() error {
	u.work.Stop()
	var errs []error
	for _, cache := range u.caches {
		errs = append(errs, cache.Close())
	}
	for _, c := range []io.Closer{u.files, u.closer} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// inbox takes uploads into one of the caches.
func (u *uploads) inbox(name string, c *Config, uploadKeys []string, keys []*signing.SecretKey, log *slog.Logger) (*bucketstore.Inbox, error) {
	trusted, err := publicKeys(uploadKeys)
	if err != nil {
		return nil, err
	}
	options := &bucketstore.InboxOptions{
		Trusted: trusted, MaxArchive: int64(c.MaxArchiveSize), MaxNAR: int64(c.MaxNARSize),
		Lease: time.Duration(c.UploadLease), Logger: log,
	}
	if c.SignUploads {
		options.Sign = keys
	}
	return bucketstore.NewInbox(u.caches[name], u.catalog, options), nil
}

// checkUploads refuses settings about uploads that contradict each other, and fills in where the catalog is.
func (c *Config) checkUploads() error {
	switch {
	case c.Upload && !isBucket(c.Store):
		return usageError{hint(fmt.Errorf("upload: the store %q takes none", c.Store), "use --store file:///DIR or s3://BUCKET")}
	case !c.Upload && len(c.Cache) > 0:
		return usageError{hint(errors.New("caches with names are for uploads"), "add upload = true")}
	case !c.Upload:
		return nil
	case c.UploadLease < duration(time.Second):
		return usageError{hint(fmt.Errorf("upload-lease: %s is too short", c.UploadLease), "use 1s or more; 1h is usual")}
	}
	if c.Catalog == "" && c.StateDir != "" {
		c.Catalog = filepath.Join(c.StateDir, "catalog.sqlite")
	}
	if c.Catalog == "" {
		return usageError{hint(errors.New("upload: there is no state folder for the catalog"), "name one with --state-dir")}
	}
	_, err := publicKeys(c.UploadKey)
	return err
}

// directoryOf is the directory that file://DIR names.
func directoryOf(uri string) (string, error) {
	rest, ok := strings.CutPrefix(uri, fileScheme)
	dir, err := url.PathUnescape(rest)
	if !ok || err != nil || !filepath.IsAbs(dir) {
		return "", usageError{hint(fmt.Errorf("store: %q names no absolute path", uri), "write file:///DIR")}
	}
	return dir, nil
}

// serve makes a handler's options take uploads into a cache.
func (u *uploads) serve(o *httpcache.Options, inbox *bucketstore.Inbox) {
	o.Receiver, o.Pushers = inbox, inbox.View()
}
