package ssh_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/voidnxlab/nixtrap/internal/buildertest"
	"github.com/voidnxlab/nixtrap/offload/ssh"
)

// file writes a file and returns its name.
func file(t *testing.T, name, text string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

func TestHostKeys(t *testing.T) {
	b := buildertest.Start(t, nil)
	other := buildertest.GenerateKey(t, filepath.Join(t.TempDir(), "other"))
	at := b.Addr()
	line := func(key xssh.PublicKey) string { return knownhosts.Line([]string{at}, key) + "\n" }
	hashed := knownhosts.HashHostname(knownhosts.Normalize(at)) + " " + string(xssh.MarshalAuthorizedKey(b.HostKey))
	right, wrong := xssh.FingerprintSHA256(b.HostKey), xssh.FingerprintSHA256(other)
	for name, test := range map[string]struct {
		pinned []xssh.PublicKey
		known  string
		says   []string // nothing if it is trusted
	}{
		"pinned":               {pinned: []xssh.PublicKey{b.HostKey}},
		"one of two pinned":    {pinned: []xssh.PublicKey{other, b.HostKey}},
		"another pinned":       {pinned: []xssh.PublicKey{other}, says: []string{right, wrong, "/etc/nix/machines:7 (eighth column"}},
		"pins alone count":     {pinned: []xssh.PublicKey{other}, known: line(b.HostKey), says: []string{right, wrong}},
		"known":                {known: line(other)[:0] + line(b.HostKey)},
		"known, hashed":        {known: hashed},
		"known, behind others": {known: "# a comment\n\nelsewhere " + string(xssh.MarshalAuthorizedKey(other)) + line(b.HostKey)},
		"another known":        {known: "# a comment\n" + line(other), says: []string{right, wrong, "known_hosts:2", line(b.HostKey)[:20]}},
		"unknown":              {known: "elsewhere " + string(xssh.MarshalAuthorizedKey(other)), says: []string{right, "known_hosts", "add to"}},
		"revoked":              {known: line(b.HostKey) + "@revoked * " + string(xssh.MarshalAuthorizedKey(b.HostKey)), says: []string{right, "revokes", "known_hosts:2"}},
		"file that is damaged": {known: "x\n", says: []string{"known_hosts:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			h, o := host(t, b, nil), fast()
			h.HostKeys = test.pinned
			known := file(t, "known_hosts", test.known)
			o.KnownHosts = []string{known, filepath.Join(t.TempDir(), "missing")}
			_, _, err := run(t, open(t, h, o), "true", "")
			if test.says == nil {
				require.NoError(t, err)
				return
			}
			e := fails(t, err, ssh.HostKey)
			t.Log(e)
			for _, says := range test.says {
				require.Contains(t, e.Error(), says)
			}
			if test.pinned == nil {
				require.Contains(t, e.Error(), known)
			}
		})
	}
}

func TestRetryAfterAKeyWasMended(t *testing.T) {
	b := buildertest.Start(t, nil)
	h, o := host(t, b, nil), fast()
	h.HostKeys = nil
	o.KnownHosts = []string{file(t, "known_hosts", "")}
	p := open(t, h, o)
	_, _, err := run(t, p, "true", "")
	fails(t, err, ssh.HostKey)
	require.NoError(t, os.WriteFile(o.KnownHosts[0], []byte(knownhosts.Line([]string{b.Addr()}, b.HostKey)), 0o600))
	_, _, err = run(t, p, "true", "")
	require.False(t, fails(t, err, ssh.HostKey).RetryAt.IsZero())
	p.Retry()
	_, _, err = run(t, p, "true", "")
	require.NoError(t, err)
}

func TestAKeyIsLearnedIfAsked(t *testing.T) {
	b := buildertest.Start(t, nil)
	h, o := host(t, b, nil), fast()
	h.HostKeys = nil
	known := filepath.Join(t.TempDir(), "known_hosts")
	o.KnownHosts = []string{known}
	_, _, err := run(t, open(t, h, o), "true", "")
	fails(t, err, ssh.HostKey)
	require.NoFileExists(t, known)
	o.LearnTo = known
	_, _, err = run(t, open(t, h, o), "true", "")
	require.NoError(t, err)
	o.LearnTo = ""
	_, _, err = run(t, open(t, h, o), "true", "")
	require.NoError(t, err, "it is known now")
	require.NoError(t, os.WriteFile(known, []byte(knownhosts.Line([]string{b.Addr()}, buildertest.GenerateKey(t, filepath.Join(t.TempDir(), "x")))+"\n"), 0o600))
	o.LearnTo = known
	_, _, err = run(t, open(t, h, o), "true", "")
	fails(t, err, ssh.HostKey)
}

// privateKeys returns keys of the kinds that OpenSSH makes, encoded as it does.
func privateKeys(t *testing.T) map[string]any {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	return map[string]any{"ed25519": ed, "ecdsa": ec, "rsa": r}
}

func TestKeysOfEachKindLogIn(t *testing.T) {
	b := buildertest.Start(t, nil)
	for name, private := range privateKeys(t) {
		t.Run(name, func(t *testing.T) {
			block, err := xssh.MarshalPrivateKey(private, "")
			require.NoError(t, err)
			signer, err := xssh.NewSignerFromKey(private)
			require.NoError(t, err)
			b.AuthorizedKeys(t, string(xssh.MarshalAuthorizedKey(signer.PublicKey())))
			h := host(t, b, nil)
			h.KeyFiles = []string{file(t, "key", string(pem.EncodeToMemory(block)))}
			_, _, err = run(t, open(t, h, fast()), "true", "")
			require.NoError(t, err)
		})
	}
}

func TestKeysThatDoNotLogIn(t *testing.T) {
	b := buildertest.Start(t, nil)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	encrypted, err := xssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("secret"))
	require.NoError(t, err)
	lockedKey := file(t, "locked", string(pem.EncodeToMemory(encrypted)))
	stranger := filepath.Join(t.TempDir(), "stranger")
	fingerprint := xssh.FingerprintSHA256(buildertest.GenerateKey(t, stranger))
	noKey := file(t, "no-key", "text")
	for name, test := range map[string]struct {
		files []string
		user  string
		agent string
		says  []string
	}{
		"none":          {nil, "root", "", []string{"no key to log in with", "third column"}},
		"missing":       {[]string{"/missing/key"}, "root", "", []string{"/missing/key: no such file"}},
		"encrypted":     {[]string{lockedKey}, "root", "", []string{lockedKey, "encrypted", "ssh-add"}},
		"no key at all": {[]string{noKey}, "root", "", []string{noKey, "no private key"}},
		"no agent":      {nil, "root", "/missing/agent", []string{"agent", "/missing/agent"}},
		"not accepted":  {[]string{lockedKey, stranger}, "root", "", []string{fingerprint, `user "root"`, "authorized_keys", lockedKey}},
		"wrong user":    {[]string{b.Key}, "nosuchuser", "", []string{`user "nosuchuser"`}},
	} {
		t.Run(name, func(t *testing.T) {
			h, o := host(t, b, nil), fast()
			h.KeyFiles, h.User, o.Agent = test.files, test.user, test.agent
			_, _, err := run(t, open(t, h, o), "true", "")
			e := fails(t, err, ssh.Authentication)
			t.Log(e)
			for _, says := range test.says {
				require.Contains(t, e.Error(), says)
			}
			require.NotContains(t, e.Error(), "PRIVATE KEY")
		})
	}
}

func TestAnAgentsKeyLogsIn(t *testing.T) {
	for _, program := range []string{"ssh-agent", "ssh-add"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("no " + program + " here")
		}
	}
	b := buildertest.Start(t, nil)
	dir, err := os.MkdirTemp("", "agent-") // not t.TempDir: the name of a socket has at most 107 bytes
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "socket")
	agent := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	require.NoError(t, agent.Start())
	t.Cleanup(func() {
		require.NoError(t, agent.Process.Kill())
		_ = agent.Wait()
	})
	buildertest.Await(t, "the agent answers", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
	h, o := host(t, b, nil), fast()
	h.KeyFiles, o.Agent = nil, socket
	_, _, err = run(t, open(t, h, o), "true", "")
	require.Contains(t, fails(t, err, ssh.Authentication).Error(), "has no key")
	add := exec.CommandContext(t.Context(), "ssh-add", "-q", b.Key)
	add.Env = []string{"SSH_AUTH_SOCK=" + socket}
	out, err := add.CombinedOutput()
	require.NoError(t, err, string(out))
	_, _, err = run(t, open(t, h, o), "true", "")
	require.NoError(t, err)
}

func TestASystemdCredentialLogsIn(t *testing.T) {
	b := buildertest.Start(t, nil)
	h, o := host(t, b, nil), fast()
	h.KeyFiles, o.KeyFiles, o.Credentials = nil, []string{"key"}, filepath.Dir(b.Key)
	_, _, err := run(t, open(t, h, o), "true", "")
	require.NoError(t, err)
}

func TestKnownKeyIsAskedForAmongSeveral(t *testing.T) {
	second := filepath.Join(t.TempDir(), "hostkey-rsa")
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	block, err := xssh.MarshalPrivateKey(private, "")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(second, pem.EncodeToMemory(block), 0o600))
	b := buildertest.Start(t, &buildertest.Options{SSHD: "HostKey " + second})
	public, err := xssh.NewPublicKey(private.Public())
	require.NoError(t, err)
	for i, key := range []xssh.PublicKey{public, b.HostKey} {
		h, o := host(t, b, nil), fast()
		h.HostKeys = nil
		o.KnownHosts = []string{file(t, fmt.Sprint("known", i), knownhosts.Line([]string{b.Addr()}, key)+"\n")}
		_, _, err := run(t, open(t, h, o), "true", "")
		require.NoError(t, err, key.Type())
	}
}
