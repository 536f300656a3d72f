package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/postgres"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/sqlite"
	"github.com/voidnxlab/nixtrap/store/bucketstore/s3"
)

const (
	fileScheme = "file://"
	s3Scheme   = "s3://"
)

// isBucket reports whether a store is a binary cache of files, here or in S3.
func isBucket(uri string) bool {
	return strings.HasPrefix(uri, fileScheme) || strings.HasPrefix(uri, s3Scheme)
}

// checkBucket refuses the URI of a bucket that is none.
func checkBucket(uri string) error {
	if strings.HasPrefix(uri, s3Scheme) {
		if _, err := s3.ParseURL(uri); err != nil {
			return usageError{hint(err, "write s3://BUCKET[/FOLDER]?endpoint=HOST&region=REGION")}
		}
		return nil
	}
	_, err := directoryOf(uri)
	return err
}

// bucketFiles are open files that are to be closed.
type bucketFiles interface {
	bucketstore.Files
	io.Closer
}

// openFiles opens where a bucket's files lie. A directory is made if need be.
func openFiles(ctx context.Context, uri string) (bucketFiles, error) {
	if strings.HasPrefix(uri, s3Scheme) {
		o, err := s3.ParseURL(uri)
		if err != nil {
			return nil, usageError{err}
		}
		b, err := s3.Open(ctx, o)
		if err != nil {
			return nil, hint(err, "see that the bucket exists, and that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a "+
				"profile in ~/.aws/credentials, may list it")
		}
		return b, nil
	}
	dir, err := directoryOf(uri)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, hint(err, "--store file:///DIR names another directory")
	}
	return bucketstore.OpenDirectory(dir)
}

// openS3 opens a bucket in S3 to read from.
func openS3(ctx context.Context, uri string, log *slog.Logger) (*source, error) {
	files, err := openFiles(ctx, uri)
	if err != nil {
		return nil, err
	}
	bucket, err := bucketstore.OpenFiles(ctx, files, &bucketstore.Options{Logger: log})
	if err != nil {
		return nil, errors.Join(hint(err, "fill it first: nix copy --to '"+uri+"' PATH"), files.Close())
	}
	return &source{Store: bucket, Closer: closers{bucket, files}, name: uri}, nil
}

// closers are closed in their order.
type closers []io.Closer

// Close implements io.Closer.
func (c closers) Close() error {
	var errs []error
	for _, one := range c {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}

// isPostgreSQL reports whether a catalog is in a database that several servers may share.
func isPostgreSQL(where string) bool {
	return strings.HasPrefix(where, "postgres://") || strings.HasPrefix(where, "postgresql://")
}

// openCatalog opens the catalog in a file, or in a PostgreSQL database.
func openCatalog(ctx context.Context, where string, log *slog.Logger) (*catalog.Catalog, io.Closer, error) {
	o := &catalog.Options{Logger: log}
	if isPostgreSQL(where) {
		c, err := postgres.Connect(ctx, where, o)
		if err != nil {
			return nil, nil, hint(err, "see that the database exists, and that this user may make tables in it")
		}
		return c.Catalog, c, nil
	}
	c, err := sqlite.OpenFile(ctx, where, o)
	if err != nil {
		return nil, nil, hint(err, "--catalog names another file, --state-dir another folder")
	}
	return c.Catalog, c, nil
}
