// Command bucketstore prints what a binary cache in a directory holds.
//
//	nix copy --to file:///tmp/cache nixpkgs#hello && bucketstore /tmp/cache
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: bucketstore DIR")
	}
	cache, err := bucketstore.Open(os.Args[1], nil)
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()
	for path, err := range cache.Paths(context.Background()) {
		if err != nil {
			log.Print(err)
			return
		}
		fmt.Println(path)
	}
}
