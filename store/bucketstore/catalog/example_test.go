package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/voidnxlab/nixtrap/internal/catalogtest"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/sqlite"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "catalog")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, err := sqlite.OpenFile(ctx, filepath.Join(dir, "catalog.db"), nil)
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close()

	bucket := catalogtest.NewBucket() // a bucketstore.Files, elsewhere
	info := catalogtest.Info("/nix/store/7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d-hello-2.12", "content")
	upload, err := c.BeginUpload(ctx, info.URL, time.Hour)
	if err != nil {
		log.Print(err)
		return
	}
	bucket.Put(info.URL, nil)
	if err := c.AddArchive(ctx, upload, "team", "alice", catalogtest.Archive(info), time.Hour); err != nil {
		log.Print(err)
		return
	}
	err = c.Publish(ctx, catalog.Publication{
		Cache: "team", Uploader: "alice", Info: info,
		Write: func(context.Context) error {
			bucket.Put(catalog.NarinfoKey("team", info.StorePath.HashPart()), info)
			return nil
		},
	})
	fmt.Println("published:", err)

	err = c.Pin(ctx, "team", "release", info.StorePath, "alice", time.Time{})
	fmt.Println("pinned:", err)
	err = c.DeletePath(ctx, "team", info.StorePath.HashPart(), catalog.Deletion{Files: bucket})
	var kept *catalog.KeptError
	fmt.Println("kept by:", errors.As(err, &kept), kept.Pins)
	// Output:
	// published: <nil>
	// pinned: <nil>
	// kept by: true [release]
}
