package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/s3"
)

// openedBucket is a bucket that takes uploads with its catalog, beside a server that may be running.
type openedBucket struct {
	files   bucketFiles
	catalog *catalog.Catalog
	closer  io.Closer // of the catalog
}

// bucketConfig reads the settings that say where an upload directory is, and the command's own flags.
func (p *process) bucketConfig(
	cmd *command, args []string, own func(*Config, *flag.FlagSet),
) (c *Config, words []string, err error) {
	c, words, err = p.configFlags(cmd, args, func(c *Config, set *flag.FlagSet) {
		set.StringVar(&c.Store, "store", c.Store, "upload `STORE`: file:///DIR or s3://BUCKET")
		set.StringVar(&c.StateDir, "state-dir", c.StateDir, "`FOLDER` with the catalog")
		c.catalogFlags(set)
		own(c, set)
	})
	if err != nil {
		return nil, nil, err
	}
	c.Upload = true
	return c, words, c.complete(p.env)
}

// openOperated opens a bucket that takes uploads and its catalog, neither of which is made.
func (c *Config) openOperated(ctx context.Context) (*openedBucket, error) {
	if !isPostgreSQL(c.Catalog) {
		if _, err := os.Stat(c.Catalog); errors.Is(err, fs.ErrNotExist) {
			return nil, hint(fmt.Errorf("there is no catalog %s", c.Catalog),
				"--catalog or --state-dir say where it is; narserved fsck --rebuild makes one from the bucket")
		}
	}
	return c.openAnew(ctx)
}

// openAnew is openOperated, but makes the catalog. What root makes belongs to whom its folder belongs: the server may run
// as another user.
func (c *Config) openAnew(ctx context.Context) (b *openedBucket, err error) {
	if dir, err := directoryOf(c.Store); err == nil {
		if _, err := os.Stat(dir); err != nil {
			return nil, hint(err, "--store file:///DIR names another directory")
		}
	}
	b = &openedBucket{}
	if b.files, err = openFiles(ctx, c.Store); err != nil {
		return nil, err
	}
	_, stat := os.Stat(c.Catalog)
	if b.catalog, b.closer, err = openCatalog(ctx, c.Catalog, nil); err != nil {
		return nil, errors.Join(err, b.files.Close())
	}
	if !isPostgreSQL(c.Catalog) && errors.Is(stat, fs.ErrNotExist) {
		err = c.giveCatalogAway()
	}
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (c *Config) giveCatalogAway() error {
	folder, err := os.Stat(filepath.Dir(c.Catalog))
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	owner, ok := folder.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	for _, extension := range []string{"", "-wal", "-shm"} {
		err := os.Lchown(c.Catalog+extension, int(owner.Uid), int(owner.Gid))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close implements io.Closer.
func (b *openedBucket) Close() error { return errors.Join(b.closer.Close(), b.files.Close()) }

// hashPart reads an argument that names a path of a cache, as query does.
func (b *openedBucket) path(ctx context.Context, cache, argument string) (narinfo.HashPart, error) {
	s, err := bucketstore.OpenFiles(ctx, b.files, &bucketstore.Options{Cache: cache})
	if err != nil {
		return "", err
	}
	defer s.Close()
	return (&source{Store: s}).hashPart(argument)
}

// cacheFlag binds the flag that names a cache.
func cacheFlag(set *flag.FlagSet, cache *string) {
	set.StringVar(cache, "cache", "", "`NAME` of the cache in the bucket; without, the one at its root")
}

// printObjects prints an array of objects.
func printObjects[T any](p *process, objects []T) error {
	encoder := json.NewEncoder(p.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(append([]T{}, objects...))
}

// staleUpload is how long parts of an upload to S3 lie until they count as left behind.
const staleUpload = 24 * time.Hour

// sweep removes what writers that died have left in a bucket.
func sweep(ctx context.Context, files bucketstore.Files) error {
	switch f := files.(type) {
	case *bucketstore.Directory:
		return f.Sweep(ctx)
	case *s3.Bucket:
		_, err := f.AbortIncomplete(ctx, staleUpload)
		return err
	}
	return nil
}
