package gc_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/sqlite"
	"github.com/voidnxlab/nixtrap/store/bucketstore/gc"
)

func ExampleCollect() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "gc")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	clock := catalogtest.NewClock()
	c, err := sqlite.OpenFile(ctx, filepath.Join(dir, "catalog.db"), &catalog.Options{Now: clock.Now})
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close()

	bucket := catalogtest.NewBucket()
	old := catalogtest.Info("/nix/store/7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-hello-2.11", "old")
	recent := catalogtest.Info("/nix/store/0c4k0s5wbqrw9y4jj7ijpgrlnvmkmqqn-hello-2.12", "recent")
	if err := bucket.Push(ctx, c.Catalog, "", old); err != nil {
		log.Print(err)
		return
	}
	clock.Advance(60 * 24 * time.Hour)
	if err := bucket.Push(ctx, c.Catalog, "", recent); err != nil {
		log.Print(err)
		return
	}
	report, err := gc.Collect(ctx, c.Catalog, bucket, gc.Options{KeepUsed: 30 * 24 * time.Hour, Look: bucket.Look})
	if err != nil {
		log.Print(err)
		return
	}
	if _, err := report.WriteTo(os.Stdout); err != nil {
		log.Print(err)
	}
	fmt.Println("freed", report.Freed)
	// Output:
	// keep /nix/store/0c4k0s5wbqrw9y4jj7ijpgrlnvmkmqqn-hello-2.12 (6 bytes): last used 2026-03-02 00:00:00
	// delete /nix/store/7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-hello-2.11 (3 bytes): too old, last used 2026-01-01 00:00:00
	// deleted 1 paths and 3 bytes, kept 1 paths and 6 bytes
	// freed 3
}
