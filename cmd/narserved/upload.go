package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/token"
	"github.com/voidnxlab/nixtrap/internal/background"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/sqlite"
)

// uploads is what a server that takes uploads has beside its bucket.
type uploads struct {
	bucket  *bucketstore.Store
	catalog *sqlite.Catalog
	work    *background.Work // what the catalog does by itself
	tokens  httpcache.Authorizer
}

// openUploads opens the bucket to upload to, and its catalog.
func (c *Config) openUploads(ctx context.Context, log *slog.Logger) (*source, error) {
	dir, err := directoryOf(c.Store)
	if err != nil {
		return nil, err
	}
	tokens, err := c.tokenStore()
	if err != nil {
		return nil, err
	}
	u := &uploads{tokens: token.New(tokens, nil), work: background.New()}
	if u.catalog, err = sqlite.OpenFile(ctx, c.Catalog, &catalog.Options{Logger: log}); err != nil {
		return nil, hint(err, "--catalog names another file, --state-dir another folder")
	}
	u.bucket, err = bucketstore.Create(dir, narinfo.CacheInfo{WantMassQuery: true}, &bucketstore.Options{
		Logger: log, Used: func(hash narinfo.HashPart) { u.catalog.Touch("", hash) },
	})
	if err != nil {
		return nil, errors.Join(hint(err, "--store file:///DIR names another directory"), u.catalog.Close())
	}
	u.work.Start(func(ctx context.Context) { _ = u.catalog.Run(ctx) })
	return &source{Store: u.bucket, Closer: u, name: c.Store, uploads: u}, nil
}

// Close implements io.Closer.
func (u *uploads) Close() error {
	u.work.Stop()
	return errors.Join(u.bucket.Close(), u.catalog.Close())
}

// serve makes a handler's options take uploads.
func (u *uploads) serve(o *httpcache.Options, c *Config, keys []*signing.SecretKey, log *slog.Logger) error {
	trusted, err := publicKeys(c.UploadKey)
	if err != nil {
		return err
	}
	options := &bucketstore.InboxOptions{
		Trusted: trusted, MaxArchive: int64(c.MaxArchiveSize), MaxNAR: int64(c.MaxNARSize), Logger: log,
	}
	if c.SignUploads {
		options.Sign = keys
	}
	inbox := bucketstore.NewInbox(u.bucket, u.catalog.Catalog, options)
	o.Access, o.Receiver, o.Pushers = u.tokens, inbox, inbox.View()
	return nil
}

// checkUploads refuses settings about uploads that contradict each other, and fills in where the catalog is.
func (c *Config) checkUploads() error {
	if !c.Upload {
		return nil
	}
	if _, err := directoryOf(c.Store); err != nil {
		return err
	}
	if _, err := publicKeys(c.UploadKey); err != nil {
		return err
	}
	if c.Catalog == "" && c.StateDir != "" {
		c.Catalog = filepath.Join(c.StateDir, "catalog.sqlite")
	}
	if c.Catalog == "" {
		return usageError{hint(errors.New("upload: there is no state folder for the catalog"), "name one with --state-dir")}
	}
	return nil
}

// directoryOf is the directory that file://DIR names.
func directoryOf(uri string) (string, error) {
	rest, ok := strings.CutPrefix(uri, "file://")
	dir, err := url.PathUnescape(rest)
	if !ok || err != nil || !filepath.IsAbs(dir) {
		return "", usageError{hint(fmt.Errorf("store: %q names no absolute path", uri), "write file:///DIR")}
	}
	return dir, nil
}
