package main_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
)

// artefacts is the server's own account of its artefact cache.
func (s *server) artefacts(t *testing.T) map[string]int64 {
	t.Helper()
	var status struct{ Artefacts map[string]int64 }
	require.NoError(t, json.Unmarshal(get(t, s.Admin+"/status").body, &status))
	return status.Artefacts
}

// TestEveryReleaseCopiesThroughZstd lets each release copy a closure with signatures demanded; the first of them has
// the archives made, the others get files.
func TestEveryReleaseCopiesThroughZstd(t *testing.T) {
	top := realnix.Closure(t, 150)
	s := startServer(t, "--store", "local", "--compression", "zstd")
	paths := strings.Fields(realnix.Get(t, "2.8").Run(t, "nix-store", "--query", "--requisites", top))
	fields := s.narinfoFields(t, top)
	require.True(t, strings.HasSuffix(fields["URL"], ".nar.zst"))
	require.Equal(t, "zstd", fields["Compression"])
	require.NotContains(t, fields, "FileHash", "the archive is yet to be made")
	require.NotContains(t, fields, "FileSize", "the archive is yet to be made")
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			dest := nix.TempDir(t)
			nix.Run(t, "nix", append(s.trusting(), "copy", "--from", s.URL, "--to", dest, top)...)
			nix.Run(t, "nix", append(s.trusting(), "store", "verify", "--store", dest, "--recursive",
				"--sigs-needed", "1", top)...)
		})
	}
	require.Equal(t, int64(len(paths)), s.artefacts(t)["made"], "each archive was made once")
	require.Zero(t, s.artefacts(t)["direct"])
	require.Eventually(t, func() bool { return s.artefacts(t)["running"] == 0 }, 10*time.Second, 10*time.Millisecond)

	fields = s.narinfoFields(t, top)
	a := get(t, s.URL+"/"+fields["URL"])
	require.NoError(t, a.err)
	require.Equal(t, fields["FileSize"], a.header.Get("Content-Length"))
	require.Equal(t, `"`+strings.TrimPrefix(fields["FileHash"], "sha256:")+`"`, a.header.Get("ETag"))
	d, err := zstd.NewReader(nil)
	require.NoError(t, err)
	nar, err := d.DecodeAll(a.body, nil)
	require.NoError(t, err)
	sum := sha256.Sum256(nar)
	dump, err := realnix.Get(t, "2.8").Command(t, "nix-store", "--dump", top).Output()
	require.NoError(t, err)
	want := sha256.Sum256(dump)
	require.Equal(t, hex.EncodeToString(want[:]), hex.EncodeToString(sum[:]))
}

// A client keeps a narinfo for 30 days, and the operator may change his mind meanwhile.
func TestRememberedZstdURLIsAnsweredWithoutACache(t *testing.T) {
	p := newPrivateStore(t)
	path := p.Build(t, "small", "echo content > $out")
	before := startServer(t, "--store", p.URI()).narinfoFields(t, path)["URL"]
	s := startServer(t, "--store", p.URI(), "--artefact-cache", "0")
	require.Equal(t, "none", s.narinfoFields(t, path)["Compression"])
	a := get(t, s.URL+"/"+before)
	require.Equal(t, http.StatusOK, a.status)
	require.Empty(t, a.header.Get("Accept-Ranges"))
	require.Equal(t, int64(1), s.artefacts(t)["direct"])
}

func TestArtefactsOutliveTheServer(t *testing.T) {
	p := newPrivateStore(t)
	path := p.Build(t, "kept", "echo content > $out")
	dir := t.TempDir()
	first := startServer(t, "--store", p.URI(), "--artefact-dir", dir)
	a := get(t, first.URL+"/"+first.narinfoFields(t, path)["URL"])
	require.NoError(t, a.err)
	require.Eventually(t, func() bool { return first.artefacts(t)["artefacts"] == 1 }, 10*time.Second, 10*time.Millisecond)

	d := startDaemon(t, nil, "narserved", "--listen", "127.0.0.1:0", "--store", p.URI(), "--artefact-dir", dir)
	require.Equal(t, 1, d.exit(t), "one folder, one process")
	require.Contains(t, d.log.String(), "is in use")
	require.Contains(t, d.log.String(), "hint: ")

	require.NoError(t, first.cmd.Process.Signal(os.Interrupt))
	_ = first.cmd.Wait()
	second := startServer(t, "--store", p.URI(), "--artefact-dir", dir)
	b := get(t, second.URL+"/"+second.narinfoFields(t, path)["URL"])
	require.Equal(t, a.body, b.body)
	require.Zero(t, second.artefacts(t)["made"])
	require.Equal(t, int64(1), second.artefacts(t)["hits"])
}

func TestADirectorysArchivesNeedNoCache(t *testing.T) {
	b := newBucket(t)
	state := t.TempDir()
	d := startDaemon(t, nil, "narserved", "--listen", "127.0.0.1:0", "--store", b.URI(), "--state-dir", state,
		"--artefact-cache", "1GiB")
	d.url(t)
	require.Contains(t, d.log.String(), "a directory's archives are served as they are")
	require.NoDirExists(t, filepath.Join(state, "artefacts"))
}

func TestWithoutAFolderNothingIsCompressed(t *testing.T) {
	p := newPrivateStore(t)
	p.Build(t, "any", "echo content > $out")
	blocked := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(blocked, nil, 0o644))
	args := []string{"--listen", "127.0.0.1:0", "--store", p.URI(), "--unsigned", "--state-dir", blocked}
	d := startDaemon(t, nil, "narserved", args...)
	d.url(t)
	require.Contains(t, d.log.String(), "no artefact cache: archives are served uncompressed")
	d = startDaemon(t, nil, "narserved", append(args, "--compression", "zstd")...)
	require.Equal(t, 1, d.exit(t), "it was told to compress")
}
