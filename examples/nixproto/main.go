// Command nixproto shows what the machine's Nix daemon knows of store paths.
//
//	go run ./examples/nixproto /nix/store/…-hello
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

func main() {
	ctx := context.Background()
	daemon, err := nixproto.Dial(ctx, os.Getenv("NIX_DAEMON_SOCKET_PATH"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer daemon.Close()
	for _, arg := range os.Args[1:] {
		path, err := narinfo.ParseStorePath(arg)
		if err != nil {
			log.Fatal(err)
		}
		info, err := daemon.PathInfo(ctx, path)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n  %d bytes, %v\n", path, info.Info.NarSize, info.Info.NarHash)
		for _, reference := range info.Info.References {
			fmt.Printf("  refers to %s\n", reference)
		}
	}
}
