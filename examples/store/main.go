// Command store lists all that a path in a binary cache needs, itself last, with sizes.
//
//	go run ./examples/store /tmp/cache /nix/store/HASHPART-NAME
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: store DIR PATH")
	}
	root, err := narinfo.ParseStorePath(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	cache, err := bucketstore.Open(os.Args[1], nil)
	if err != nil {
		log.Fatal(err)
	}
	closure, err := store.Closure(context.Background(), cache, root)
	cache.Close()
	if err != nil {
		log.Fatal(err)
	}
	for _, info := range closure {
		fmt.Printf("%12d %s\n", info.NarSize, info.StorePath)
	}
}
