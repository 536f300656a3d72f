// Package acmetest runs a real ACME certificate authority in tests: pebble, at free ports of the loopback. Every name
// there is is 127.0.0.1 for it. `.ci/pebble` installs it; package peer says what happens where it is not there.
package acmetest

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voidnxlab/nixtrap/internal/peer"
	"github.com/voidnxlab/nixtrap/internal/tlstest"
)

// Options are what an authority does otherwise than others.
type Options struct {
	// Port is where it proves the TLS-ALPN challenge, which others do at 443.
	Port int
	// Lifetime is that of its certificates, in whole seconds. 0: 90 days.
	Lifetime time.Duration
}

// Server is a running authority. It ends with the test.
type Server struct {
	// Directory is the URL of the ACME directory.
	Directory string
	// AuthorityFile is, as PEM, who vouches for the server's own certificate: an ACME client must trust it.
	AuthorityFile string
	// Root is, as PEM, who vouches for the certificates that it issues.
	Root []byte

	log string
}

// Start starts an authority. It is as unhelpful as pebble is by default: it rejects some good nonces, for clients must
// bear that, but waits for nothing.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	program, authority, config := peer.Program(t, "pebble"), tlstest.New(t), filepath.Join(t.TempDir(), "config.json")
	certFile, keyFile := authority.Files(t)
	resolver := serveNames(t)
	client := &http.Client{Timeout: time.Second, Transport: authority.Transport(t)} // trusts none but ours
	addresses, log := peer.Serve(t, 2, func(addresses []string) *exec.Cmd {
		writeConfig(t, config, map[string]any{
			"listenAddress": addresses[0], "managementListenAddress": addresses[1], "certificate": certFile, "privateKey": keyFile,
			"tlsPort": o.Port, "keyAlgorithm": "ecdsa", "retryAfter": map[string]int{"authz": 1, "order": 1},
			"profiles": map[string]any{"default": map[string]int{"validityPeriod": int(o.Lifetime.Seconds())}},
		})
		cmd := exec.Command(program, "-strict", "-config", config, "-dnsserver", resolver)
		cmd.Env = []string{"PEBBLE_VA_NOSLEEP=1"}
		return cmd
	}, func(addresses []string) bool {
		return fetch(client, "https://"+addresses[0]+"/dir") != nil && fetch(client, "https://"+addresses[1]+"/roots/0") != nil
	})
	t.Cleanup(func() {
		if text, _ := os.ReadFile(log); t.Failed() {
			t.Logf("pebble said:\n%s", text)
		}
	})
	return &Server{
		Directory: "https://" + addresses[0] + "/dir", AuthorityFile: authority.File,
		Root: fetch(client, "https://"+addresses[1]+"/roots/0"), log: log,
	}
}

// Issued is how many certificates it has issued.
func (s *Server) Issued(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(s.log)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), "Issued certificate serial ")
}

func writeConfig(t testing.TB, file string, config map[string]any) {
	t.Helper()
	text, err := json.Marshal(map[string]any{"pebble": config})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// fetch returns what is at a URL, nil if nothing is.
func fetch(client *http.Client, url string) []byte {
	resp, err := client.Get(url)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil
	}
	return body
}
