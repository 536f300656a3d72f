// Command upload pushes a path of this machine's Nix store, with all that it refers to, to a binary cache.
//
//	TOKEN=… upload https://cache.example.org /nix/store/HASH-NAME
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/httpstore"
	"github.com/voidnxlab/nixtrap/store/httpstore/upload"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: upload URL PATH")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Getenv("TOKEN")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url, path, token string) (err error) {
	root, err := narinfo.ParseStorePath(path)
	if err != nil {
		return err
	}
	local, err := localstore.Open(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, local.Close()) }()
	cache, err := upload.New(url, &upload.Options{Authorization: httpstore.Bearer(token)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	report, err := cache.Push(ctx, local, root)
	fmt.Printf("%d of %d paths pushed\n", len(report.Pushed), report.Paths)
	return err
}
