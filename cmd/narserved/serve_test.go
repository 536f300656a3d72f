package main_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

const (
	hashA = "00000000000000000000000000000001"
	hashB = "00000000000000000000000000000002"
	hashC = "00000000000000000000000000000003"
)

func sha256Hash(t *testing.T, content []byte) narinfo.Hash {
	t.Helper()
	sum := sha256.Sum256(content)
	hash, err := narinfo.NewHash(narinfo.SHA256, sum[:])
	require.NoError(t, err)
	return hash
}

func TestKeyIsMadeOnceAndNeverShown(t *testing.T) {
	state, b := filepath.Join(t.TempDir(), "deep/state"), newBucket(t)
	args := []string{"--state-dir", state, "--store", b.URI(), "--listen", "127.0.0.1:0", "--log-level", "debug"}

	first := startDaemon(t, nil, "narserved", args...)
	url := first.url(t)
	public := first.says(t, `public_key="?([^"\s]+)`)[1]
	first.says(t, `extra-substituters = `+url)
	first.says(t, `extra-trusted-public-keys = \S+`)
	first.says(t, `nix.settings.substituters = \[ "`+url+`" \];`)
	landing := get(t, url+"/")
	require.Equal(t, http.StatusOK, landing.status)
	require.Contains(t, html.UnescapeString(string(landing.body)), public)
	first.stop(t)

	file := filepath.Join(state, "signing-key")
	secret, err := os.ReadFile(file)
	require.NoError(t, err)
	stat, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), stat.Mode())
	entries, err := filepath.Glob(file + "*")
	require.NoError(t, err)
	require.Equal(t, []string{file}, entries, "no draft is left")

	second := startDaemon(t, nil, "narserved", args...)
	second.url(t)
	second.stop(t)
	require.Contains(t, second.log.String(), public, "the same key")
	require.NotContains(t, second.log.String(), "was made")
	again, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, secret, again)

	_, encoded, _ := strings.Cut(strings.TrimSpace(string(secret)), ":")
	for _, shown := range []string{first.log.String(), second.log.String(), string(landing.body)} {
		for i := 0; i+16 <= 40; i += 8 { // the seed is the first half
			require.NotContains(t, shown, encoded[i:i+16], "a part of the secret")
		}
	}
}

func TestMachineWithoutNixServesADirectory(t *testing.T) {
	data := t.TempDir()
	env := []string{"XDG_DATA_HOME=" + data, "NIX_STATE_DIR=" + t.TempDir(), "STATE_DIRECTORY=" + t.TempDir()}
	for _, round := range []string{"first", "again"} {
		d := startDaemon(t, env, "narserved", "--listen", "127.0.0.1:0")
		url := d.url(t)
		d.says(t, "no Nix store")
		d.says(t, "nix copy --to file://")
		a := get(t, url+"/nix-cache-info")
		require.Equal(t, http.StatusOK, a.status, round)
		require.Contains(t, string(a.body), "StoreDir: /nix/store")
		require.FileExists(t, filepath.Join(data, "narserved/cache/nix-cache-info"))
		d.stop(t)
	}
}

func TestLocalStoreThatIsNotThereIsAnErrorIfItWasAskedFor(t *testing.T) {
	d := startDaemon(t, []string{"NIX_STATE_DIR=" + t.TempDir()}, "narserved", "--state-dir", t.TempDir(),
		"--store", "local", "--listen", "127.0.0.1:0")
	require.Equal(t, 1, d.exit(t))
	require.Contains(t, d.log.String(), "no Nix store here")
	require.Contains(t, d.log.String(), "hint: ")
}

func TestPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, flag := range []string{"--listen", "--admin-listen"} {
		state := t.TempDir()
		d := startDaemon(t, nil, "narserved", "--state-dir", state, "--store", newBucket(t).URI(),
			"--listen", "127.0.0.1:0", flag, taken.Addr().String())
		require.Equal(t, 1, d.exit(t))
		require.Contains(t, d.log.String(), "address already in use")
		require.Regexp(t, `hint: another program has this port .* choose another port with `+flag+"\n", d.log.String())
		require.NoFileExists(t, filepath.Join(state, "signing-key"), "a key that nobody was told of")
	}
}

func TestUnixSocket(t *testing.T) {
	b, dir := newBucket(t), t.TempDir()
	socket := filepath.Join(dir, "socket")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	require.NoError(t, err)
	stale.SetUnlinkOnClose(false)
	require.NoError(t, stale.Close())

	args := []string{"--state-dir", t.TempDir(), "--store", b.URI(), "--listen"}
	d := startDaemon(t, nil, "narserved", append(args, "unix:"+socket)...)
	d.says(t, "msg=listening address="+socket)
	stat, err := os.Stat(socket)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o660), stat.Mode().Perm())
	resp, err := unixClient(t, socket).Get("http://cache/nix-cache-info")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)

	other := startDaemon(t, nil, "narserved", append(args, "unix:"+socket)...)
	require.Equal(t, 1, other.exit(t))
	require.Contains(t, other.log.String(), "another server answers on this socket")
	d.stop(t)
	require.NoFileExists(t, socket)

	private := startDaemon(t, nil, "narserved", append(args, "unix:"+socket+"?mode=0600")...)
	private.says(t, "msg=listening")
	stat, err = os.Stat(socket)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), stat.Mode().Perm())
}

func TestRootsAndTrustedKeysLimitWhatIsServed(t *testing.T) {
	b := newBucket(t)
	key, err := signing.GenerateKey("trusted-1")
	require.NoError(t, err)
	inner := b.add(t, hashA, "inner", 100)
	outer := b.add(t, hashB, "outer", 100, inner)
	other := b.add(t, hashC, "other", 100)
	for _, info := range []*narinfo.Info{outer, other} {
		info.Signatures = append(info.Signatures, key.Sign(info.Fingerprint()))
		b.write(t, info)
	}
	link := filepath.Join(t.TempDir(), "root")
	require.NoError(t, os.Symlink(string(outer.StorePath), link))

	for _, test := range []struct {
		name  string
		flags []string
		want  []*narinfo.Info
	}{
		{"no limit", nil, []*narinfo.Info{inner, outer, other}},
		{"roots", []string{"--roots", string(outer.StorePath)}, []*narinfo.Info{inner, outer}},
		{"trusted key", []string{"--trusted-key", key.Public().String()}, []*narinfo.Info{outer, other}},
		{"both", []string{"--roots", link, "--trusted-key", key.Public().String()}, []*narinfo.Info{outer}},
		{"a folder in a path", []string{"--roots", string(outer.StorePath) + "/bin"}, []*narinfo.Info{inner, outer}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := startDaemon(t, nil, "narserved", append(test.flags,
				"--state-dir", t.TempDir(), "--store", b.URI(), "--listen", "127.0.0.1:0")...)
			url := d.url(t)
			var served []*narinfo.Info
			for _, info := range []*narinfo.Info{inner, outer, other} {
				if get(t, url+"/"+string(info.StorePath.HashPart())+".narinfo").status == http.StatusOK {
					served = append(served, info)
				}
			}
			require.Equal(t, test.want, served)
		})
	}
}

func TestAdminListener(t *testing.T) {
	b := newBucket(t)
	info := b.add(t, hashA, "some", 1000)
	admin := filepath.Join(t.TempDir(), "admin")
	d := startDaemon(t, nil, "narserved", "--state-dir", t.TempDir(), "--store", b.URI(), "--listen", "127.0.0.1:0",
		"--admin-listen", "unix:"+admin)
	url := d.url(t)
	nar := get(t, narURL(t, url, info))
	require.Len(t, nar.body, int(info.NarSize))
	require.Equal(t, http.StatusNotFound, get(t, url+"/status").status, "the status is for the admin listener alone")

	client := unixClient(t, admin)
	var status struct {
		UptimeSeconds *int64 `json:"uptime_seconds"`
		Version       string
		Goroutines    int
		Requests      map[string]struct{ Count, Bytes int64 }
		Quarantined   []string
	}
	require.Eventually(t, func() bool { // a request is counted when its answer has ended, just after the client has it
		resp, err := client.Get("http://admin/status")
		require.NoError(t, err)
		defer resp.Body.Close()
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&status))
		return status.Requests["nar"].Count == 1
	}, 5*time.Second, 5*time.Millisecond)
	require.Equal(t, info.NarSize, status.Requests["nar"].Bytes)
	require.EqualValues(t, 1, status.Requests["narinfo"].Count)
	require.NotNil(t, status.UptimeSeconds)
	require.NotEmpty(t, status.Version)
	require.NotNil(t, status.Quarantined)
	require.Empty(t, status.Quarantined)

	resp, err := client.Get("http://admin/healthz")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

func TestJSONLogHasRequestsAtDebug(t *testing.T) {
	d := startDaemon(t, nil, "narserved", "--state-dir", t.TempDir(), "--store", newBucket(t).URI(),
		"--listen", "127.0.0.1:0", "--unsigned", "--log-format", "json", "--log-level", "debug")
	url := d.says(t, `"url":"([^"]+)"`)[1]
	get(t, url+"/"+hashA+".narinfo")
	d.says(t, `"msg":"request","kind":"narinfo","method":"GET","path":"/`+hashA+`.narinfo","status":404`)
	d.stop(t)
	for line := range strings.Lines(d.log.String()) {
		require.True(t, json.Valid([]byte(line)), "%s", line)
	}
}

// slowTransfer begins to read a NAR that is larger than all buffers on its way. finish reads the rest.
func slowTransfer(t *testing.T, url string) (finish func() (int64, error)) {
	t.Helper()
	resp, err := (&http.Client{Transport: &http.Transport{}}).Get(url)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	require.Equal(t, http.StatusOK, resp.StatusCode)
	_, err = io.CopyN(io.Discard, resp.Body, 1000)
	require.NoError(t, err)
	return func() (int64, error) {
		n, err := io.Copy(io.Discard, resp.Body)
		return n + 1000, err
	}
}

func TestDrainLetsTransfersFinish(t *testing.T) {
	b := newBucket(t)
	info := b.add(t, hashA, "large", 64<<20)
	d := startDaemon(t, nil, "narserved", "--state-dir", t.TempDir(), "--store", b.URI(), "--listen", "127.0.0.1:0")
	url := d.url(t)
	finish := slowTransfer(t, narURL(t, url, info))

	d.signal(t, syscall.SIGTERM)
	d.says(t, `msg="stopping.*running=[12]`) // a request that was answered may not have ended yet
	require.Eventually(t, func() bool { return get(t, url+"/nix-cache-info").err != nil },
		5*time.Second, 5*time.Millisecond, "new connections are refused")
	n, err := finish()
	require.NoError(t, err)
	require.Equal(t, info.NarSize, n)
	require.Zero(t, d.exit(t))
	require.NotContains(t, d.log.String(), "cutting")
}

func TestDrainEnds(t *testing.T) {
	for _, test := range []struct {
		name    string
		timeout string
		signals []syscall.Signal
	}{
		{"at its timeout", "100ms", []syscall.Signal{syscall.SIGTERM}},
		{"at a second signal", "1h", []syscall.Signal{syscall.SIGTERM, syscall.SIGINT}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBucket(t)
			info := b.add(t, hashA, "large", 64<<20)
			d := startDaemon(t, nil, "narserved", "--state-dir", t.TempDir(), "--store", b.URI(),
				"--listen", "127.0.0.1:0", "--drain-timeout", test.timeout)
			finish := slowTransfer(t, narURL(t, d.url(t), info))
			for i, s := range test.signals {
				d.signal(t, s)
				if i == 0 {
					d.says(t, `msg="stopping.*running=[12]`) // a request that was answered may not have ended yet
				}
			}
			require.Zero(t, d.exit(t))
			require.Contains(t, d.log.String(), "cutting requests that are still running")
			_, err := finish()
			require.Error(t, err, "a transfer that was cut must not look whole")
		})
	}
}

func TestNixServeName(t *testing.T) {
	b := newBucket(t)
	info := b.add(t, hashA, "some", 1000)
	key, err := signing.GenerateKey("nix-serve-1")
	require.NoError(t, err)
	keyFile := filepath.Join(t.TempDir(), "key")
	require.NoError(t, key.WriteFile(keyFile))
	for _, test := range []struct {
		name string
		env  []string
		sigs int
	}{
		{"without a key", nil, 0},
		{"with a key", []string{"NIX_SECRET_KEY_FILE=" + keyFile}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			state := t.TempDir()
			d := startDaemon(t, append(test.env, "STATE_DIRECTORY="+state), "nix-serve",
				"--listen", "127.0.0.1:0", "--priority", "7", "--workers", "5", "--store", b.URI())
			url := d.url(t)
			d.says(t, `--workers of nix-serve has no effect`)
			require.Contains(t, string(get(t, url+"/nix-cache-info").body), "Priority: 7\n")
			text := get(t, fmt.Sprintf("%s/%s.narinfo", url, info.StorePath.HashPart())).body
			require.Equal(t, test.sigs, strings.Count(string(text), "Sig: "))
			require.NoFileExists(t, filepath.Join(state, "signing-key"))
			d.stop(t)
		})
	}
}
