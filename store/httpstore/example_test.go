package httpstore_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store/httpstore"
)

func ExampleNew() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "StoreDir: /nix/store\nPriority: 41\n")
	}))
	defer server.Close()
	keys, err := signing.ParseKeyring("cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=")
	if err != nil {
		log.Fatal(err)
	}
	cache, err := httpstore.New(server.URL, &httpstore.Options{TrustedKeys: keys})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()
	priority, err := cache.Priority(context.Background())
	fmt.Println(cache.StoreDir(), priority, err)
	// Output: /nix/store 41 <nil>
}
