// Token is a server that tells whose token a request carries. It makes one token, for an hour, and prints it.
//
//	go run ./examples/token tokens.json
//	curl -H "Authorization: Bearer nixtrap_…" http://127.0.0.1:5000/
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/token"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: token FILE")
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, file string) error {
	tokens := &token.FileStore{Path: file}
	secret, record, err := token.GenerateToken(nil)
	if err != nil {
		return err
	}
	record.Name, record.Scopes = "example", httpcache.ScopeRead|httpcache.ScopePush
	record.Expires = record.Created.Add(time.Hour)
	if err := tokens.Add(ctx, record); err != nil {
		return err
	}
	fmt.Println(secret.Text())
	server := &http.Server{
		Addr: "127.0.0.1:5000", Handler: whoAmI(token.New(tokens, nil)), ReadHeaderTimeout: 10 * time.Second,
	}
	return server.ListenAndServe()
}

// whoAmI tells the three outcomes apart: known, not known, and could not be told.
func whoAmI(authorizer httpcache.Authorizer) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		identity, err := authorizer.Authorize(r)
		switch {
		case err == nil:
			fmt.Fprintf(w, "%s may %s\n", identity.Name, identity.Scopes)
		case errors.Is(err, httpcache.ErrNoCredential), errors.Is(err, httpcache.ErrBadCredential):
			log.Print(err)
			w.Header().Set("WWW-Authenticate", `Basic realm="nix"`)
			http.Error(w, "a token is needed", http.StatusUnauthorized)
		default:
			log.Print(err)
			http.Error(w, "unavailable", http.StatusServiceUnavailable)
		}
	}
}
