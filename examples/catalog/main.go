// Command catalog fills a new catalog from a binary cache in a directory, and prints what it holds.
//
//	nix copy --to file:///tmp/cache nixpkgs#hello && catalog /tmp/catalog.db /tmp/cache
package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log"
	"os"
	"time"

	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/sqlite"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: catalog FILE DIR")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, file, dir string) (err error) {
	c, err := sqlite.OpenFile(ctx, file, nil) // or postgres.Connect
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	cache, err := bucketstore.Open(dir, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	if err := c.Rebuild(ctx, found(ctx, cache)); err != nil {
		return err
	}
	usage, err := c.Usage(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%d paths, %d archives, %d bytes\n", usage.Caches[""].Paths, usage.Archives, usage.Bytes)
	return nil
}

// found yields what lies in a cache.
func found(ctx context.Context, cache *bucketstore.Store) iter.Seq2[catalog.Found, error] {
	return func(yield func(catalog.Found, error) bool) {
		for path, err := range cache.Paths(ctx) {
			f := catalog.Found{Modified: time.Now()}
			if err == nil {
				f.Info, err = cache.Info(ctx, path.HashPart())
			}
			if err == nil {
				f.FileSize = f.Info.FileSize
			}
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}
