package main_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestReadersBesideAWriter lets real Nix build and delete paths in a loop, one of them again and again with other
// content under the same name, while 16 clients read.
func TestReadersBesideAWriter(t *testing.T) {
	for _, release := range []string{"2.8", "2.34"} {
		t.Run(release, func(t *testing.T) { testReadersBesideAWriter(t, release) })
	}
}

func testReadersBesideAWriter(t *testing.T, release string) {
	p := newPrivateStoreOf(t, release)
	kept := p.Build(t, "kept", "mkdir $out; head -c 300000 /dev/urandom > $out/data")
	s := startServer(t, "--store", p.URI(), "--compression", "none")
	want, err := p.Command(t, "nix-store", "--dump", kept).Output()
	require.NoError(t, err)

	var present sync.Map // path → bool, the truth that readers compare with, changed before and after it holds
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var reads, wrong atomic.Int64
	for range 16 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a := get(t, s.URL+"/"+s.narinfoURL(kept))
				if a.err != nil || a.status != http.StatusOK || !bytes.Equal(a.body, want) {
					wrong.Add(1)
					t.Errorf("the kept path answered %d, %d bytes, %v", a.status, len(a.body), a.err)
				}
				present.Range(func(path, there any) bool {
					status := get(t, s.URL+"/"+hashPart(path.(string))+".narinfo").status
					if now, ok := present.Load(path); !ok || now != there {
						return true // it changed meanwhile: either answer was right
					}
					if (status == http.StatusOK) != there.(bool) {
						wrong.Add(1)
						t.Errorf("%s is valid: %t, but its narinfo answered %d", path, there, status)
					}
					return true
				})
				reads.Add(1)
			}
		})
	}
	for i, end := 0, time.Now().Add(soak(5*time.Second)); time.Now().Before(end); i++ {
		path := p.Build(t, fmt.Sprint("passing-", i), "echo $name > $out")
		present.Store(path, true)
		time.Sleep(50 * time.Millisecond)
		present.Delete(path)
		p.Run(t, "nix-store", "--delete", path)
		present.Store(path, false)
		time.Sleep(50 * time.Millisecond)
		present.Delete(path)
	}
	close(stop)
	readers.Wait()
	require.Zero(t, wrong.Load(), "wrong answers among %d reads", reads.Load())
	require.Greater(t, reads.Load(), int64(100), "reads")
	require.NotContains(t, s.log.String(), "locked")
	entries, err := filepath.Glob(p.nix.Host(p.State) + "/db/*")
	require.NoError(t, err)
	t.Logf("%d reads; the database's folder holds %v", reads.Load(), entries)
}

// TestPathRebuiltWithOtherContentIsNoticed deletes a path and adds other content under the same store path.
func TestPathRebuiltWithOtherContentIsNoticed(t *testing.T) {
	p := newPrivateStore(t)
	// Not deterministic, so the same derivation has other content at each build.
	const script = "mkdir $out; head -c 100000 /dev/urandom > $out/data"
	path := p.Build(t, "rebuilt", script)
	s := startServer(t, "--store", p.URI(), "--compression", "none")
	old := s.narinfoFields(t, path)
	require.NoError(t, get(t, s.URL+"/"+old["URL"]).err)

	p.Run(t, "nix-store", "--delete", path)
	require.Equal(t, http.StatusNotFound, get(t, s.URL+"/"+hashPart(path)+".narinfo").status)
	require.Equal(t, http.StatusNotFound, get(t, s.URL+"/"+old["URL"]).status)

	require.Equal(t, path, p.Build(t, "rebuilt", script))
	fresh := s.narinfoFields(t, path)
	require.NotEqual(t, old["NarHash"], fresh["NarHash"])
	require.Equal(t, http.StatusNotFound, get(t, s.URL+"/"+old["URL"]).status, "the old content is gone")
	want, err := p.Command(t, "nix-store", "--dump", path).Output()
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, get(t, s.URL+"/"+fresh["URL"]).body))
}

// narinfoURL is the NAR's URL out of the path's narinfo, "" where there is none.
func (s *server) narinfoURL(path string) string {
	resp, err := httpClient.Get(s.URL + "/" + hashPart(path) + ".narinfo")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	_, _ = text.ReadFrom(resp.Body)
	for line := range bytes.Lines(text.Bytes()) {
		if url, ok := bytes.CutPrefix(line, []byte("URL: ")); ok {
			return string(bytes.TrimSpace(url))
		}
	}
	return ""
}

// soak lengthens a test where NIXTRAP_SOAK is set.
func soak(d time.Duration) time.Duration {
	if os.Getenv("NIXTRAP_SOAK") != "" {
		return 20 * d
	}
	return d
}
