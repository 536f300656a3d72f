// Command artefact serves this machine's Nix store on the loopback interface, with archives that are compressed once.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/store/artefact"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
	s, err := localstore.Open(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	dir, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	artefacts, err := artefact.Open(filepath.Join(dir, "nix-artefacts"), &artefact.Options{Budget: 1 << 30})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, artefacts.Close()) }()
	h, err := httpcache.New(s, &httpcache.Options{Artefacts: artefacts})
	if err != nil {
		return err
	}
	fmt.Println("substituters = http://127.0.0.1:5000")
	server := &http.Server{Addr: "127.0.0.1:5000", Handler: h, ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServe()
}
