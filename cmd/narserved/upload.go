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

// bucket is one that this server writes to: what is uploaded, or what upstreams were asked for.
type bucket struct {
	*bucketstore.Store                               // the cache at the root
	caches             map[string]*bucketstore.Store // by name; "" is the root's
	files              bucketFiles
	catalog            *catalog.Catalog
	closer             io.Closer        // of the catalog
	work               *background.Work // what the catalog does by itself
	gc                 *collector       // nil: nothing is collected here
}

// openBucket opens a bucket, with all of its caches, and its catalog. It is made if need be. flag is what names it.
func (c *Config) openBucket(ctx context.Context, uri, storeDir, flag string, log *slog.Logger) (_ *bucket, err error) {
	b := &bucket{work: background.New(), caches: make(map[string]*bucketstore.Store)}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if b.catalog, b.closer, err = openCatalog(ctx, c.Catalog, log); err != nil {
		return nil, err
	}
	if b.files, err = openFiles(ctx, uri); err != nil {
		return nil, err
	}
	names := []string{""}
	for _, cache := range c.Cache {
		names = append(names, cache.Name)
	}
	for _, name := range names {
		info := narinfo.CacheInfo{StoreDir: storeDir, WantMassQuery: true}
		b.caches[name], err = bucketstore.CreateFiles(ctx, b.files, info, &bucketstore.Options{
			Cache: name, Logger: log, Used: func(hash narinfo.HashPart) { b.catalog.Touch(name, hash) },
			Holds: func(ctx context.Context, key string) (bool, error) { return b.catalog.Holds(ctx, name, key) },
		})
		if err != nil {
			return nil, hint(err, flag+" names another bucket")
		}
	}
	b.Store = b.caches[""]
	b.warnOfLoss(ctx, log)
	b.work.Start(func(ctx context.Context) { _ = b.catalog.Run(ctx) })
	if c.GCInterval > 0 {
		b.gc = newCollector(b, c, log)
		b.work.Start(b.gc.run)
	}
	return b, nil
}

// warnOfLoss tells of a bucket that others have filled, or whose catalog was lost: nothing of it counts as there for
// those who push, and nothing of it is ever deleted.
func (b *bucket) warnOfLoss(ctx context.Context, log *slog.Logger) {
	usage, err := b.catalog.Usage(ctx)
	if err != nil || usage.Archives > 0 {
		return
	}
	for _, err := range b.Paths(ctx) {
		if err == nil {
			log.Warn("the catalog knows nothing of what is in this bucket", "advice", "narserved fsck --rebuild")
		}
		return
	}
}

// Close implements io.Closer.
func (b *bucket) Close() error {
	b.work.Stop()
	var errs []error
	for _, cache := range b.caches {
		if cache != nil {
			errs = append(errs, cache.Close())
		}
	}
	if b.files != nil {
		errs = append(errs, b.files.Close())
	}
	if b.closer != nil {
		errs = append(errs, b.closer.Close())
	}
	return errors.Join(errs...)
}

// inbox takes uploads, and what is kept, into one of the caches.
func (b *bucket) inbox(
	name string, c *Config, uploadKeys []string, keys []*signing.SecretKey, u *upstreams, log *slog.Logger,
) (*bucketstore.Inbox, error) {
	trusted, err := publicKeys("upload-key", uploadKeys)
	if err != nil {
		return nil, err
	}
	options := &bucketstore.InboxOptions{
		Trusted: trusted, MaxArchive: int64(c.MaxArchiveSize), MaxNAR: int64(c.MaxNARSize),
		Lease: time.Duration(c.UploadLease), Logger: log,
		Elsewhere: u.elsewhere((*upstream).isComplete), TempDir: c.tempDir(),
	}
	if b.gc != nil {
		options.Full = b.gc.full.Load
	}
	if c.SignUploads {
		options.Sign = keys
	}
	return bucketstore.NewInbox(b.caches[name], b.catalog, options), nil
}

// takeUploads makes a handler's options take uploads into an inbox.
func takeUploads(o *httpcache.Options, inbox *bucketstore.Inbox) {
	o.Receiver, o.Deleter, o.Pushers = inbox, inbox, inbox.View()
}

// checkUploads refuses settings about uploads that contradict each other, and fills in where the catalog is.
func (c *Config) checkUploads() error {
	if _, err := publicKeys("upload-key", c.UploadKey); err != nil {
		return err
	}
	switch {
	case c.Upload && !isBucket(c.Store):
		return usageError{hint(fmt.Errorf("upload: the store %q takes none", c.Store), "use --store file:///DIR or s3://BUCKET")}
	case c.UploadLease <= 0:
		return usageError{hint(fmt.Errorf("upload-lease: %s is no time to upload in", c.UploadLease), "1h is usual")}
	case c.GCInterval < 0:
		return usageError{hint(fmt.Errorf("gc-interval: %s is negative", c.GCInterval), "use 0s to collect by hand")}
	case !c.Upload && len(c.Cache) > 0:
		return usageError{hint(errors.New("caches with names are for uploads"), "add upload = true")}
	case !c.Upload && c.keepURI() == "":
		return nil
	}
	if c.Catalog == "" && c.StateDir != "" {
		c.Catalog = filepath.Join(c.StateDir, "catalog.sqlite")
	}
	if c.Catalog == "" {
		return usageError{hint(errors.New("there is no state folder for the catalog"), "name one with --state-dir")}
	}
	return nil
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
