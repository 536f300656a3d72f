// Clientcert is a server that tells who a client is by its certificate, if it has one of the authority in a PEM file.
//
//	go run ./examples/clientcert authority.pem server.pem server.key
//	curl --cacert … --cert client.pem --key client.key https://localhost:5443/
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/clientcert"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: clientcert AUTHORITY CERTIFICATE KEY")
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func run(authority, cert, key string) error {
	pem, err := os.ReadFile(authority)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", authority)
	}
	authorizer, err := clientcert.New([]clientcert.Rule{{CommonName: "*", Scopes: httpcache.ScopeRead}})
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr: "127.0.0.1:5443", ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			identity, err := authorizer.Authorize(r)
			switch {
			case errors.Is(err, httpcache.ErrNoCredential):
				fmt.Fprintln(w, "nobody that I know")
			case err != nil:
				http.Error(w, "bad certificate", http.StatusForbidden)
			default:
				fmt.Fprintf(w, "%s may %s\n", identity.Name, identity.Scopes)
			}
		}),
	}
	return server.ListenAndServeTLS(cert, key)
}
