package bucketstore_test

import (
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/archivetest"
	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

func write(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o644))
}

const hashPart = "7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d"

func TestOpenLog(t *testing.T) {
	const drv = narinfo.StorePath("/nix/store/" + hashPart + "-x.drv")
	text := strings.Repeat("building…\n", 1000)
	for name, c := range map[string]struct{ extension, compression, text string }{
		"plain":             {"", "none", text},
		"empty":             {"", "none", ""},
		"short":             {"", "none", "BZh9"},
		"zstd by content":   {"", "zstd", text},
		"xz by content":     {"", "xz", text},
		"gzip by content":   {"", "gzip", text},
		"zstd by name":      {".zst", "zstd", text},
		"xz by name":        {".xz", "xz", text},
		"gzip by name":      {".gz", "gzip", text},
		"plain under .bz2":  {".bz2", "none", text},
		"not quite a bzip2": {"", "none", "BZh91AY&SX and then text"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := bucket(t, "none", nil, nil)
			write(t, dir, "log/"+drv.Base()+c.extension, archivetest.Compress(t, c.compression, []byte(c.text)))
			r, err := open(t, dir).OpenLog(t.Context(), drv)
			require.NoError(t, err)
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			require.Equal(t, c.text, string(got))
			require.NoError(t, r.Close())
		})
	}

	dir := bucket(t, "none", nil, nil)
	write(t, dir, "log/"+hashPart+"-x", []byte("not a derivation's"))
	whole := archivetest.Compress(t, "zstd", []byte(text))
	write(t, dir, "log/"+drv.Base(), whole[:len(whole)-3])
	s := open(t, dir)
	r, err := s.OpenLog(t.Context(), drv)
	require.NoError(t, err)
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.NoError(t, r.Close())
	for _, other := range []narinfo.StorePath{
		"/nix/store/" + hashPart + "-x", "/gnu/store/" + hashPart + "-x.drv", "/nix/store/" + hashPart + "-y.drv", "",
	} {
		_, err := s.OpenLog(t.Context(), other)
		require.ErrorIs(t, err, store.ErrNotFound, "%q", other)
	}
}

func TestLogBombEnds(t *testing.T) {
	const drv = narinfo.StorePath("/nix/store/" + hashPart + "-x.drv")
	dir := bucket(t, "none", nil, nil)
	write(t, dir, "log/"+drv.Base(), zstdZeros(257<<20))
	r, err := open(t, dir).OpenLog(t.Context(), drv)
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, r)
	require.ErrorContains(t, err, "a log of more than 268435456 bytes")
	require.EqualValues(t, 256<<20, n)
	require.NoError(t, r.Close())
}

func TestRealisation(t *testing.T) {
	dir := bucket(t, "none", nil, nil)
	id := "sha256:" + strings.Repeat("ab", 32) + "!out"
	broken := "sha256:" + strings.Repeat("cd", 32) + "!out"
	write(t, dir, "realisations/"+id+".doi", []byte(`{"id":"x"}`))
	write(t, dir, "realisations/"+broken+".doi", []byte(`{"id":`))
	s := open(t, dir)
	b, err := s.Realisation(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, `{"id":"x"}`, string(b))
	_, err = s.Realisation(t.Context(), broken)
	require.ErrorIs(t, err, store.ErrCorrupt)
	absent := "sha256:" + strings.Repeat("00", 32) + "!out"
	for _, other := range []string{"", "x", "../" + id, id + "/..", strings.ToUpper(id), absent} {
		_, err := s.Realisation(t.Context(), other)
		require.ErrorIs(t, err, store.ErrNotFound, other)
	}
}

func TestOpenFile(t *testing.T) {
	entries := sample().Entries()
	dir := bucket(t, "zstd", entries, nil)
	s := open(t, dir)
	keys := map[string]string{
		hashPart + ".ls":             "{}",
		hashPart + ".narinfo":        "text",
		"log/" + hashPart + "-x.drv": "log",
		"realisations/sha256:" + strings.Repeat("0", 64) + "!out.doi": "{}",
		"build-trace-v2/" + hashPart + "-x.drv/out.doi":               "{}",
		"debuginfo/" + strings.Repeat("0a", 20):                       "{}",
		"debuginfo/" + strings.Repeat("0b", 20) + ".debug":            "{}",
	}
	for key, content := range keys {
		write(t, dir, key, []byte(content))
		f, err := s.OpenFile(t.Context(), key)
		require.NoError(t, err, key)
		require.EqualValues(t, len(content), f.Size)
		require.False(t, f.ModTime.IsZero())
		got, err := io.ReadAll(f)
		require.NoError(t, err)
		require.Equal(t, content, string(got))
		require.NoError(t, f.Close())
	}
	for _, key := range []string{
		"nix-cache-info", "secret", "nar/secret", "log/secret", "nar/" + hashPart + ".nar", "x/" + hashPart + ".ls",
	} {
		write(t, dir, key, []byte("StoreDir: /nix/store\n"))
		_, err := s.OpenFile(t.Context(), key)
		require.ErrorIs(t, err, store.ErrNotFound, key)
	}

	info, err := s.Info(t.Context(), entries[0].Info.StorePath.HashPart())
	require.NoError(t, err)
	f, err := s.OpenFile(t.Context(), info.URL)
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, info.FileHash, sha(t, b))
	require.NoError(t, f.Close())
	lie := "nar/" + strings.Repeat("0", 52) + ".nar.zst"
	write(t, dir, lie, b)
	_, err = s.OpenFile(t.Context(), lie)
	require.ErrorIs(t, err, store.ErrCorrupt, "an archive's name is its proof")
}

// What real Nix puts into a binary cache besides archives is found under the keys that it uses itself.
func TestFilesOfRealNix(t *testing.T) {
	for _, n := range realnix.All(t) {
		t.Run(n.Release, func(t *testing.T) {
			dir := n.TempDir(t)
			expression := `derivation { name = "logged"; system = "x86_64-linux"; builder = "/bin/sh";
				args = [ "-c" "echo to the log; echo content > $out" ];
				__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }`
			require.NoError(t, os.WriteFile(n.Host(path.Join(dir, "d.nix")), []byte(expression), 0o644))
			features := []string{"--extra-experimental-features", "nix-command ca-derivations"}
			drv := n.Run(t, "nix-instantiate", append(features, path.Join(dir, "d.nix"))...)
			out := n.Run(t, "nix-store", append(features, "-r", drv)...)
			cache := "file://" + path.Join(dir, "cache")
			outputs := drv + "^*"
			if n.Release == "2.8" {
				outputs = drv // which means its outputs there
			}
			n.Run(t, "nix", append(features, "copy", "--no-check-sigs", "--to", cache+"?write-nar-listing=true", outputs)...)
			n.Run(t, "nix", append(features, "store", "copy-log", "--to", cache, drv)...)

			s := open(t, n.Host(path.Join(dir, "cache")))
			r, err := s.OpenLog(t.Context(), narinfo.StorePath(drv))
			require.NoError(t, err)
			text, err := io.ReadAll(r)
			require.NoError(t, err)
			require.Equal(t, "to the log\n", string(text))
			require.NoError(t, r.Close())
			hashPart := path.Base(out)[:32]
			for _, key := range []string{hashPart + ".ls", hashPart + ".narinfo", "log/" + path.Base(drv)} {
				f, err := s.OpenFile(t.Context(), key)
				require.NoError(t, err, key)
				require.NoError(t, f.Close())
			}
			requireRealisations(t, n.Host(path.Join(dir, "cache")), s)
		})
	}
}

// requireRealisations opens each file that Nix wrote for a content-addressed output, by id and by key.
func requireRealisations(t *testing.T, dir string, s interface {
	store.FileOpener
	store.RealisationOpener
},
) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "realisations", "*.doi"))
	require.NoError(t, err)
	traces, err := filepath.Glob(filepath.Join(dir, "build-trace-v2", "*", "*.doi"))
	require.NoError(t, err)
	require.NotEmpty(t, append(files, traces...))
	for _, name := range files {
		b, err := s.Realisation(t.Context(), strings.TrimSuffix(filepath.Base(name), ".doi"))
		require.NoError(t, err, name)
		require.Contains(t, string(b), "outPath")
	}
	for _, name := range append(files, traces...) {
		key, err := filepath.Rel(dir, name)
		require.NoError(t, err)
		f, err := s.OpenFile(t.Context(), key)
		require.NoError(t, err, key)
		require.NoError(t, f.Close())
	}
}
