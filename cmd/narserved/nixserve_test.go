package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNixServeFlags(t *testing.T) {
	for _, test := range []struct {
		name    string
		args    []string
		env     []string
		want    func(*Config) // on top of the defaults
		ignored []string
	}{
		{"nothing", nil, nil, func(*Config) {}, nil},
		{"NixOS module", []string{"--listen", "0.0.0.0:5000"}, []string{"NIX_REMOTE=daemon", "NIX_SECRET_KEY_FILE=/run/key"},
			func(c *Config) {
				c.Listen, c.SignKey, c.Unsigned = []string{"0.0.0.0:5000"}, []string{"/run/key"}, false
			}, nil},
		{"NixOS module with IPv6", []string{"--listen", ":::5000"}, nil,
			func(c *Config) { c.Listen = []string{"[::]:5000"} }, nil},
		{"several", []string{"-l", ":1", "--listen=*:2", "-l", "/run/s", "-S", "/run/t"}, nil,
			func(c *Config) { c.Listen = []string{":1", ":2", "unix:/run/s", "unix:/run/t"} }, nil},
		{"plackup", []string{"-o", "127.0.0.1", "-p", "8000", "-E", "deployment"}, nil,
			func(c *Config) { c.Listen = []string{"127.0.0.1:8000"} }, []string{"E"}},
		{"nix-serve-ng", []string{"--host", "*", "--port", "8000", "--priority", "40", "--timeout", "600", "--quiet"}, nil,
			func(c *Config) { c.Listen, c.Priority, c.LogLevel = []string{":8000"}, 40, "warn" }, []string{"timeout"}},
		{"starman", []string{"--workers", "4", "--preload-app", "--disable-keepalive"}, nil,
			func(*Config) {}, []string{"disable-keepalive", "preload-app", "workers"}},
		{"TLS", []string{"--listen", ":443:ssl", "--enable-ssl", "--ssl-cert", "/c", "--ssl-key", "/k"}, nil,
			func(c *Config) { c.Listen, c.TLSCert, c.TLSKey = []string{":443"}, "/c", "/k" }, []string{"enable-ssl"}},
		{"store", []string{"--store", "/mnt", "--log-format", "verbose-no-color"}, []string{"NIX_REMOTE=unix:///s"},
			func(c *Config) { c.Store, c.LogLevel = "/mnt", "debug" }, nil},
		{"store from the environment", nil, []string{"NIX_REMOTE=unix:///s"},
			func(c *Config) { c.Store = "unix:///s" }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := defaultConfig()
			want.Listen, want.Unsigned, want.StateDir = []string{":5000"}, true, "/state"
			want.Compression, want.ArtefactDir, want.TokenFile = none, "/state/artefacts", "/state/tokens.json"
			test.want(want)
			p := testProcess(append(test.env, "STATE_DIRECTORY=/state")...)
			got, ignored, err := p.nixServeConfig(&command{name: "nix-serve"}, test.args)
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.Equal(t, test.ignored, ignored)
		})
	}
}
