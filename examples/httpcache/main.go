// Httpcache serves this machine's Nix store, signed with a key that it makes up, on the loopback interface.
package main

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	s, err := localstore.Open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	key, err := signing.GenerateKey("example-1")
	if err != nil {
		return err
	}
	h, err := httpcache.New(s, &httpcache.Options{Keys: []*signing.SecretKey{key}, Logger: slog.Default()})
	if err != nil {
		return err
	}
	fmt.Println("extra-substituters = http://127.0.0.1:5000\nextra-trusted-public-keys =", key.Public())
	server := &http.Server{Addr: "127.0.0.1:5000", Handler: h, ReadHeaderTimeout: 10 * time.Second}
	return server.ListenAndServe()
}
