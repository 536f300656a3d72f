// Shim answers a Nix that was told of the builder ssh-ng://localhost?remote-program=THIS: it has a coordinator choose a real
// one, and sends the build there. $NIX_OFFLOAD_SOCKET names the coordinator's socket.
package main

import (
	"context"
	"io"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/offload/coordinator"
	"github.com/voidnxlab/nixtrap/offload/shim"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

// stdio is standard input and output as one connection.
type stdio struct {
	io.ReadCloser
	io.Writer
}

func main() {
	ctx := context.Background()
	local, err := localstore.Open(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	desk := coordinator.NewClient(os.Getenv("NIX_OFFLOAD_SOCKET"))
	if err := shim.Serve(ctx, stdio{os.Stdin, os.Stdout}, local, desk, &shim.Options{Program: os.Args[0]}); err != nil {
		log.Fatal(err)
	}
}
