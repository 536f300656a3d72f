// Oidc is a server that tells which pipeline of a GitHub owner sends a request, by the ID token that GitHub gives a job.
//
//	go run ./examples/oidc OWNER
//	curl -H "Authorization: Bearer $ID_TOKEN" http://127.0.0.1:5000/
package main

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/oidc"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: oidc OWNER")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(owner string) error {
	authorizer, err := oidc.New([]oidc.Issuer{{
		URL:      "https://token.actions.githubusercontent.com",
		Audience: "http://127.0.0.1:5000",
		Claims:   map[string][]string{"repository_owner": {owner}, "ref": {"refs/heads/main", "refs/tags/*"}},
		Scopes:   httpcache.ScopeRead | httpcache.ScopePush,
		Name:     "{repository}@{ref}",
	}}, &oidc.Options{Logger: slog.Default()})
	if err != nil {
		return err
	}
	defer authorizer.Close()
	server := &http.Server{
		Addr: "127.0.0.1:5000", ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			identity, err := authorizer.Authorize(r)
			switch {
			case err == nil:
				fmt.Fprintf(w, "%s may %s\n", identity.Name, identity.Scopes)
			case errors.Is(err, httpcache.ErrNoCredential), errors.Is(err, httpcache.ErrBadCredential):
				log.Print(err)
				http.Error(w, "an ID token is needed", http.StatusUnauthorized)
			default:
				log.Print(err)
				http.Error(w, "unavailable", http.StatusServiceUnavailable)
			}
		}),
	}
	return server.ListenAndServe()
}
