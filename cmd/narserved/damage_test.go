package main_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// damages are what may happen to a file behind the server's back.
var damages = map[string]func(t *testing.T, file string){
	"one byte changed": func(t *testing.T, file string) {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		require.NoError(t, err)
		defer f.Close()
		var b [1]byte
		_, err = f.ReadAt(b[:], size(t, file)/2)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte{b[0] ^ 1}, size(t, file)/2)
		require.NoError(t, err)
	},
	"truncated": func(t *testing.T, file string) { require.NoError(t, os.Truncate(file, size(t, file)/2)) },
	"appended to": func(t *testing.T, file string) {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
		require.NoError(t, err)
		defer f.Close()
		_, err = f.WriteString("more")
		require.NoError(t, err)
	},
	"deleted": func(t *testing.T, file string) { require.NoError(t, os.Remove(file)) },
	"replaced": func(t *testing.T, file string) {
		require.NoError(t, os.WriteFile(file+".new", make([]byte, size(t, file)), 0o444))
		require.NoError(t, os.Rename(file+".new", file))
	},
}

func size(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	require.NoError(t, err)
	return info.Size()
}

// TestDamagedPathNeverYieldsAWrongNAR damages a path before and during a transfer, before and after it was proved.
func TestDamagedPathNeverYieldsAWrongNAR(t *testing.T) {
	for name, damage := range damages {
		for _, proved := range []bool{false, true} {
			for _, during := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/proved=%t/during=%t", name, proved, during), func(t *testing.T) {
					testDamage(t, damage, proved, during)
				})
			}
		}
	}
}

func testDamage(t *testing.T, damage func(*testing.T, string), proved, during bool) {
	p := newPrivateStore(t)
	path := p.Build(t, "victim",
		`mkdir $out; head -c 41943040 /dev/zero | tr '\0' a > $out/big; echo small > $out/small`)
	s := startServer(t, "--store", p.URI(), "--compression", "none")
	narinfoURL := s.URL + "/" + hashPart(path) + ".narinfo"
	narURL := s.URL + "/" + s.narinfoFields(t, path)["URL"]
	want := sha256.Sum256(dump(t, p, path))
	if proved {
		require.Eventually(t, func() bool {
			a := get(t, narURL)
			return a.err == nil && sha256.Sum256(a.body) == want
		}, 10*time.Second, 10*time.Millisecond)
	}
	original := filepath.Join(t.TempDir(), "original")
	copyFile(t, filepath.Join(path, "big"), original)
	require.NoError(t, os.Chmod(path, 0o755))
	require.NoError(t, os.Chmod(filepath.Join(path, "big"), 0o644))

	body, complete := fetchWhile(t, narURL, during, func() { damage(t, filepath.Join(path, "big")) })
	if complete && sha256.Sum256(body) != want {
		t.Fatal("a wrong NAR came to its end")
	}
	if !during {
		require.Equal(t, http.StatusNotFound, get(t, narinfoURL).status, "narinfo of a damaged path")
		require.Equal(t, http.StatusNotFound, get(t, narURL).status, "NAR of a damaged path")
		require.Equal(t, http.StatusNotFound, get(t, s.URL+"/"+hashPart(path)+".ls").status, "listing of a damaged path")
		require.Contains(t, strings.ToLower(s.log.String()), "error", "the log has an alarm")
	}

	copyFile(t, original, filepath.Join(path, "big"))
	require.Eventually(t, func() bool {
		a := get(t, narURL)
		return get(t, narinfoURL).status == http.StatusOK && a.err == nil && a.status == http.StatusOK &&
			sha256.Sum256(a.body) == want
	}, 20*time.Second, 100*time.Millisecond, "a mended path is served again")
}

// fetchWhile downloads url; the damage is done first, or when a part of the body has been read.
// It reports whether the answer looked whole and good to the client.
func fetchWhile(t *testing.T, url string, during bool, damage func()) (body []byte, complete bool) {
	t.Helper()
	if !during {
		damage()
	}
	resp, err := httpClient.Get(url)
	if err != nil {
		require.False(t, during, "%v", err)
		return nil, false
	}
	defer resp.Body.Close()
	head := make([]byte, 1<<20)
	n, err := io.ReadFull(resp.Body, head)
	if during {
		require.NoError(t, err)
		damage()
	}
	rest, err := io.ReadAll(resp.Body)
	return append(head[:n], rest...), err == nil && resp.StatusCode == http.StatusOK
}

func dump(t *testing.T, p *privateStore, path string) []byte {
	t.Helper()
	out, err := p.Command(t, "nix-store", "--dump", path).Output()
	require.NoError(t, err)
	return out
}

// copyFile writes from's content to the file to, which may exist, be read-only or be gone.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	require.NoError(t, err)
	_ = os.Remove(to)
	require.NoError(t, os.WriteFile(to, content, 0o444))
}
