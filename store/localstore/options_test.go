package localstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/store/localstore"
)

func TestParseURI(t *testing.T) {
	for uri, want := range map[string]*localstore.Options{
		"":                       {},
		"auto":                   {},
		"daemon":                 {NoDatabase: true},
		"unix://":                {NoDatabase: true},
		"unix:///run/a%20b":      {NoDatabase: true, DaemonSocket: "/run/a b"},
		"unix:///run/s?store=/s": {NoDatabase: true, DaemonSocket: "/run/s", StoreDir: "/s"},
		"local":                  {NoDaemon: true},
		"/srv/root/":             {NoDaemon: true, Root: "/srv/root"},
		"local?root=/r":          {NoDaemon: true, Root: "/r"},
		"local?store=/s&state=/t&log=/l&real=/a%2Fb": {
			NoDaemon: true, StoreDir: "/s", StateDir: "/t", LogDir: "/l", RealStoreDir: "/a/b"},
	} {
		got, err := localstore.ParseURI(uri)
		require.NoError(t, err, uri)
		require.Equal(t, want, got, uri)
	}
	for _, uri := range []string{
		"https://cache.nixos.org", "file:///x", "ssh://x", "relative/root", "local?trusted=1", "unix://x",
		"unix:///%zz", "local?root=%zz",
	} {
		_, err := localstore.ParseURI(uri)
		require.Error(t, err, uri)
	}
}

func TestOptionsThatContradict(t *testing.T) {
	for name, o := range map[string]*localstore.Options{
		"neither source":     {NoDaemon: true, NoDatabase: true},
		"socket and none":    {NoDaemon: true, DaemonSocket: "/x"},
		"relative root":      {Root: "x"},
		"relative store dir": {StoreDir: "nix/store"},
		"relative state":     {StateDir: "x"},
	} {
		_, err := localstore.Open(t.Context(), o)
		require.Error(t, err, name)
		require.NotErrorIs(t, err, localstore.ErrNoStore, name)
	}
}
