package bucketstore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/sqlite"
)

// A directory that nix copy has filled, or whose catalog was lost, gets one, and is checked.
func ExampleFsck() {
	dir, err := os.MkdirTemp("", "cache")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "1b9p07z77phvv2hf6gm9f28syp39f1ag.narinfo"), []byte("?"), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	files, err := bucketstore.OpenDirectory(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer files.Close()
	c, err := sqlite.OpenFile(context.Background(), filepath.Join(dir, ".catalog"), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	n, err := bucketstore.Rebuild(context.Background(), files, c.Catalog, nil)
	fmt.Println(n, "paths", err)
	for finding, err := range bucketstore.Fsck(context.Background(), files, c.Catalog, nil) {
		fmt.Println(finding.Kind, finding.Key, err)
	}
	// Output:
	// 0 paths <nil>
	// malformed 1b9p07z77phvv2hf6gm9f28syp39f1ag.narinfo <nil>
}
