// Command gc prints what a collection would delete from a bucket, and why, to make it fit a size.
//
//	gc /tmp/catalog.db 1000000
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"strconv"

	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/sqlite"
	"github.com/voidnxlab/nixtrap/store/bucketstore/gc"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: gc FILE BYTES")
	}
	size, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	if err := run(context.Background(), os.Args[1], size); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, file string, size int64) (err error) {
	c, err := sqlite.OpenFile(ctx, file, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	report, err := gc.Collect(ctx, c.Catalog, nil, gc.Options{MaxSize: size, DryRun: true})
	if err != nil {
		return err
	}
	_, err = report.WriteTo(os.Stdout)
	return err
}
