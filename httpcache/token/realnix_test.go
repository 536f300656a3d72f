package token_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/token"
	"github.com/voidnxlab/nixtrap/internal/realnix"
)

// pings lets a release look at a cache with a netrc file that holds the password, and returns the requests' outcomes.
func pings(t *testing.T, nix realnix.Nix, password string, outcome func(*http.Request) (string, error)) []string {
	t.Helper()
	var mu sync.Mutex
	var outcomes []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		said, err := outcome(r)
		if err != nil {
			said = err.Error()
		}
		mu.Lock()
		defer mu.Unlock()
		outcomes = append(outcomes, said)
		fmt.Fprint(w, "StoreDir: /nix/store\n")
	}))
	defer server.Close()
	netrc := filepath.Join(nix.TempDir(t), "netrc")
	line := fmt.Sprintf("machine 127.0.0.1 login token password %s\n", password)
	require.NoError(t, os.WriteFile(nix.Host(netrc), []byte(line), 0o600))
	nix.Run(t, "nix", "store", "ping", "--store", server.URL, "--option", "netrc-file", netrc)
	mu.Lock()
	defer mu.Unlock()
	return outcomes
}

// A stock Nix sends the token of its netrc file with its very first request.
func TestEveryReleaseSendsTheTokenOfItsNetrc(t *testing.T) {
	s := newFileStore(t)
	tok, record := generate(t, "laptop", httpcache.ScopeRead)
	require.NoError(t, s.Add(t.Context(), record))
	authorizer := token.New(s, nil)
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			outcomes := pings(t, nix, tok.Text(), func(r *http.Request) (string, error) {
				identity, err := authorizer.Authorize(r)
				if err != nil {
					return "", err
				}
				return identity.Name, nil
			})
			require.Equal(t, []string{"laptop"}, outcomes)
		})
	}
}

// ID tokens are longer than ours.
func TestEveryReleaseSendsALongPassword(t *testing.T) {
	long := strings.Repeat("a", 3900)
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			require.Equal(t, []string{long}, pings(t, nix, long, httpcache.Credential))
		})
	}
}
