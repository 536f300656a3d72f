// Command httpstore prints what a path of a remote binary cache refers to, directly or not.
//
//	httpstore https://cache.example.org cache.example.org-1:BASE64= HASHPART
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/httpstore"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: httpstore URL PUBLIC-KEY HASHPART")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url, key, hash string) (err error) {
	keys, err := signing.ParseKeyring(key)
	if err != nil {
		return err
	}
	cache, err := httpstore.New(url, &httpstore.Options{TrustedKeys: keys})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()
	info, err := cache.Info(ctx, narinfo.HashPart(hash))
	if err != nil {
		return err
	}
	closure, err := store.Closure(ctx, cache, info.StorePath)
	for _, i := range closure {
		fmt.Println(i.StorePath, i.NarSize)
	}
	return err
}
