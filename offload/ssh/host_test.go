package ssh_test

import (
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload/ssh"
)

const hostKeyLine = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK1x3Yy1Xq3Hq0o0vC2nZ2b1lYfQf0n0b3kYxX0c2k9T root@builder\n"

func TestParseHost(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte(hostKeyLine))
	for name, test := range map[string]struct {
		store, keyFile, hostKey string
		want                    ssh.Host
		keys, notes             int
	}{
		"bare host": {"mac", "-", "-", ssh.Host{Address: "mac", Command: "nix-store --serve --write"}, 0, 0},
		"user":      {"nix@mac", "", "", ssh.Host{Address: "mac", User: "nix", Command: "nix-store --serve --write"}, 0, 0},
		"ssh":       {"ssh://mac", "", "", ssh.Host{Address: "mac", Command: "nix-store --serve --write"}, 0, 0},
		"all columns": {"ssh-ng://nix@mac:2222", "/root/id", key, ssh.Host{
			Address: "mac", Port: 2222, User: "nix", KeyFiles: []string{"/root/id"}, Command: "nix-daemon --stdio",
		}, 1, 0},
		"IPv6": {"ssh-ng://nix@[fe80::1%25eth0]:2222", "", "", ssh.Host{
			Address: "fe80::1%eth0", Port: 2222, User: "nix", Command: "nix-daemon --stdio",
		}, 0, 0},
		"parameters": {"ssh-ng://mac?ssh-key=/root/id&remote-program=sudo%20/opt/nix-daemon&compress=true&max-connections=4&base64-ssh-public-host-key=" + key,
			"", "", ssh.Host{Address: "mac", KeyFiles: []string{"/root/id"}, Command: "sudo /opt/nix-daemon --stdio"}, 1, 1},
		"columns win": {"ssh-ng://mac?ssh-key=/root/id", "/root/other", "", ssh.Host{
			Address: "mac", KeyFiles: []string{"/root/other"}, Command: "nix-daemon --stdio",
		}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h, notes, err := ssh.ParseHost(test.store, test.keyFile, test.hostKey)
			require.NoError(t, err)
			require.Len(t, notes, test.notes)
			require.Len(t, h.HostKeys, test.keys)
			h.HostKeys = nil
			require.Equal(t, test.want, *h)
		})
	}
}

func TestParseHostRefuses(t *testing.T) {
	for name, test := range map[string]struct{ store, hostKey, says string }{
		"another scheme":    {"https://mac", "", "not reached by SSH"},
		"no host":           {"ssh://", "", "malformed"},
		"a path":            {"ssh://mac/nix", "", "malformed"},
		"a port too high":   {"ssh://mac:65536", "", "port"},
		"a port of letters": {"ssh://mac:a", "", "malformed"},
		"a password":        {"ssh://me:hidden@mac", "", "password"},
		"key not base64":    {"ssh://mac", "ssh-ed25519 AAAA", "not base64"},
		"key not a key":     {"ssh://mac", base64.StdEncoding.EncodeToString([]byte("text")), "no key"},
		"empty key":         {"ssh://mac", base64.StdEncoding.EncodeToString([]byte("\n")), "empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := ssh.ParseHost(test.store, "", test.hostKey)
			require.ErrorContains(t, err, test.says)
			require.NotContains(t, err.Error(), "hidden")
		})
	}
}

func FuzzParseHost(f *testing.F) {
	f.Add("ssh-ng://nix@[::1]:2222?ssh-key=/k", "-", base64.StdEncoding.EncodeToString([]byte(hostKeyLine)))
	f.Add("mac", "", "")
	f.Fuzz(func(t *testing.T, store, keyFile, hostKey string) {
		h, _, err := ssh.ParseHost(store, keyFile, hostKey)
		if err != nil {
			return
		}
		require.NotEmpty(t, h.Address)
		_, err = ssh.NewPool(h, nil)
		require.NoError(t, err)
	})
}
