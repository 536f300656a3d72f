package narfile_test

import (
	"bytes"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/archivetest"
	"github.com/voidnxlab/nixtrap/internal/narfile"
	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// Compressed data may be several pieces, each compressed by itself, as the compressors' own tools and Nix take them.
func TestSeveralStreamsAreDecodedAsOne(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 10_000)
	for _, compression := range []string{"zstd", "gzip", "xz"} {
		first, second := archivetest.Compress(t, compression, data[:999]), archivetest.Compress(t, compression, data[999:])
		files := map[string][]byte{"two": append(bytes.Clone(first), second...)}
		if compression == "xz" {
			padding := make([]byte, 8)
			files["padded"] = append(append(append(bytes.Clone(first), padding...), second...), padding[:4]...)
		}
		for name, file := range files {
			d, err := narfile.NewDecoder(compression, bytes.NewReader(file))
			require.NoError(t, err)
			got, err := io.ReadAll(d)
			require.NoError(t, err, "%s, %s", compression, name)
			require.Equal(t, data, got, "%s, %s", compression, name)
			require.NoError(t, d.Close())
		}
	}
}

// Each release reads an archive of two xz streams and padding, so we must.
func TestRealNixReadsSeveralStreams(t *testing.T) {
	for _, n := range realnix.All(t) {
		t.Run(n.Release, func(t *testing.T) {
			dir := n.TempDir(t)
			from, cache, to := path.Join(dir, "from"), path.Join(dir, "cache"), path.Join(dir, "to")
			nix := func(args ...string) { n.Run(t, "nix", append(args, "--extra-experimental-features", "nix-command")...) }
			made := n.Run(t, "nix-instantiate", "--store", from, "--eval", "--read-write-mode", "-E", `builtins.toFile "a" "hello"`)
			made = strings.Trim(strings.TrimSpace(made), `"`)
			nix("copy", "--no-check-sigs", "--store", from, "--to", "file://"+cache+"?compression=none", made)

			files, err := filepath.Glob(filepath.Join(n.Host(cache), "*.narinfo"))
			require.NoError(t, err)
			require.Len(t, files, 1)
			text, err := os.ReadFile(files[0])
			require.NoError(t, err)
			info, err := narinfo.Parse(text)
			require.NoError(t, err)
			archive, err := os.ReadFile(filepath.Join(n.Host(cache), info.URL))
			require.NoError(t, err)
			file := append(archivetest.Compress(t, "xz", archive[:50]), make([]byte, 4)...)
			file = append(append(file, archivetest.Compress(t, "xz", archive[50:])...), make([]byte, 8)...)
			info.URL, info.Compression, info.FileHash, info.FileSize = "nar/two.nar.xz", "xz", sha(file), int64(len(file))
			text, err = info.MarshalText()
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(files[0], text, 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(n.Host(cache), info.URL), file, 0o644))

			nix("copy", "--no-check-sigs", "--from", "file://"+cache, "--to", to, made)
			nix("store", "verify", "--no-trust", "--store", to, made)
			r, err := narfile.OpenNAR(t.Context(), info, io.NopCloser(bytes.NewReader(file)), nil)
			require.NoError(t, err)
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			require.Equal(t, archive, got)
		})
	}
}
