package bucketstore_test

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/archivetest"
	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// sample is a store with a path of some size, references and a single file.
func sample() *storetest.Memory {
	m := &storetest.Memory{}
	rng := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 20_000)
	for i := range noise {
		noise[i] = byte(rng.Uint32() & 15)
	}
	libc := m.Add("libc-2.37", storetest.Files{"lib/libc.so": string(noise), "bin/sh": "#!/bin/sh\n", "empty/": ""})
	lib := m.Add("lib-1", storetest.Files{"lib": "-> " + string(libc.StorePath), "x": "x"}, libc.StorePath)
	m.Add("tool", storetest.Files{"bin/tool": "#!/bin/sh\n"}, lib.StorePath, libc.StorePath)
	m.Add("source.txt", storetest.Files{"": "one file"})
	return m
}

func sha(t testing.TB, b []byte) narinfo.Hash {
	t.Helper()
	digest := sha256.Sum256(b)
	h, err := narinfo.NewHash(narinfo.SHA256, digest[:])
	require.NoError(t, err)
	return h
}

// bucket writes entries into a new directory. edit may change each narinfo and file before they are written.
func bucket(t testing.TB, compression string, entries []storetest.Entry, edit func(*narinfo.Info, *[]byte)) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "nar"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: /nix/store\n"), 0o644))
	for _, e := range entries {
		put(t, dir, compression, e, edit)
	}
	return dir
}

var extensions = map[string]string{"none": "", "zstd": ".zst", "xz": ".xz", "gzip": ".gz"}

func put(t testing.TB, dir, compression string, e storetest.Entry, edit func(*narinfo.Info, *[]byte)) *narinfo.Info {
	t.Helper()
	info, file := e.Info.Clone(), bytes.Clone(archivetest.Compress(t, compression, e.NAR))
	info.FileHash, info.FileSize, info.Compression = sha(t, file), int64(len(file)), compression
	info.URL = "nar/" + info.FileHash.Base32() + ".nar" + extensions[compression]
	if edit != nil {
		edit(info, &file)
	}
	text, err := info.MarshalText()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, string(e.Info.StorePath.HashPart())+".narinfo"), text, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, info.URL), file, 0o644))
	return info
}

func open(t testing.TB, dir string) *bucketstore.Store {
	t.Helper()
	s, err := bucketstore.Open(dir, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestConformance(t *testing.T) {
	conform := func(name, compression string, edit func(*narinfo.Info, *[]byte)) {
		t.Run(name, func(t *testing.T) {
			entries := sample().Entries()
			dir := bucket(t, compression, entries, edit)
			storetest.Test(t, func(t *testing.T) storetest.Fixture {
				return storetest.Fixture{Store: open(t, dir), Entries: entries}
			})
		})
	}
	for _, compression := range []string{"none", "zstd", "xz", "gzip"} {
		conform(compression, compression, nil)
	}
	for _, compression := range []string{"none", "zstd"} {
		conform(compression+" without FileHash", compression, func(i *narinfo.Info, _ *[]byte) {
			i.FileHash, i.FileSize = narinfo.Hash{}, 0
		})
		conform(compression+" elsewhere", compression, func(i *narinfo.Info, _ *[]byte) {
			i.URL = "file%20" + string(i.StorePath.HashPart())
		})
	}
}

// Caches that real Nix wrote pass the suite, and hold what its store holds.
func TestConformanceOfRealNix(t *testing.T) {
	for _, release := range []string{"2.8", "2.34"} {
		for _, compression := range []string{"none", "zstd", "xz", "bzip2", "gzip"} {
			t.Run(release+" "+compression, func(t *testing.T) {
				n := realnix.Get(t, release)
				dir := n.TempDir(t)
				entries := realCache(t, n, dir, "?compression="+compression)
				storetest.Test(t, func(t *testing.T) storetest.Fixture {
					return storetest.Fixture{Store: open(t, n.Host(path.Join(dir, "cache"))), Entries: entries}
				})
			})
		}
	}
}

// realCache builds three paths with references in a store below dir, copies them to the binary cache dir/cache, and
// returns what the store itself says of them.
func realCache(t *testing.T, n realnix.Nix, dir, options string) []storetest.Entry {
	t.Helper()
	local := []string{"--store", path.Join(dir, "store")}
	require.NoError(t, os.MkdirAll(n.Host(path.Join(dir, "tree", "bin")), 0o755))
	require.NoError(t, os.WriteFile(n.Host(path.Join(dir, "tree", "bin", "run")), []byte("#!/bin/sh\n"), 0o755))
	require.NoError(t, os.WriteFile(n.Host(path.Join(dir, "tree", "data")), bytes.Repeat([]byte("data "), 4_000), 0o644))
	require.NoError(t, os.Symlink("bin/run", n.Host(path.Join(dir, "tree", "link"))))
	expression := `let tree = builtins.path { name = "tree"; path = ` + dir + `/tree; };
		one = builtins.toFile "one" "refers to ${tree}"; in builtins.toFile "two" "refers to ${one} and ${tree}"`
	evaluate := append(local, "--eval", "--read-write-mode", "-E", expression)
	two := strings.Trim(n.Run(t, "nix-instantiate", evaluate...), `"`)
	n.Run(t, "nix", append(local, "--extra-experimental-features", "nix-command", "copy", "--no-check-sigs", "--to",
		"file://"+path.Join(dir, "cache")+options, two)...)

	var entries []storetest.Entry
	for _, p := range strings.Fields(n.Run(t, "nix-store", append(local, "-qR", two)...)) {
		query := func(what string) string { return n.Run(t, "nix-store", append(local, "-q", what, p)...) }
		dump := n.Command(t, "nix-store", append(local, "--dump", path.Join(dir, "store", p))...)
		archive, err := dump.Output()
		require.NoError(t, err)
		hash, err := narinfo.ParseHash(query("--hash"))
		require.NoError(t, err)
		info := &narinfo.Info{StorePath: narinfo.StorePath(p), NarHash: hash, NarSize: int64(len(archive))}
		for _, r := range strings.Fields(query("--references")) {
			info.References = append(info.References, narinfo.StorePath(r))
		}
		slices.Sort(info.References)
		info.CA = contentAddress(t, n, local, p)
		entries = append(entries, storetest.Entry{Info: info, NAR: archive})
	}
	require.Len(t, entries, 3)
	return entries
}

func contentAddress(t *testing.T, n realnix.Nix, local []string, p string) narinfo.ContentAddress {
	t.Helper()
	out := n.Run(t, "nix", append(local, "--extra-experimental-features", "nix-command", "path-info", "--sigs", p)...)
	for word := range strings.FieldsSeq(out) {
		if s, ok := strings.CutPrefix(word, "ca:"); ok {
			ca, err := narinfo.ParseContentAddress(s)
			require.NoError(t, err)
			return ca
		}
	}
	return ""
}

func TestOpenNeedsCacheInfo(t *testing.T) {
	_, err := bucketstore.Open(t.TempDir(), nil)
	require.ErrorContains(t, err, "no file nix-cache-info, so this is no binary cache")
	_, err = bucketstore.Open(filepath.Join(t.TempDir(), "absent"), nil)
	require.ErrorIs(t, err, os.ErrNotExist)

	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nix-cache-info"), []byte("StoreDir: relative\n"), 0o644))
	_, err = bucketstore.Open(dir, nil)
	require.ErrorContains(t, err, `StoreDir " relative": the directory is not absolute`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nix-cache-info"), nil, 0o644))
	require.Equal(t, "/nix/store", open(t, dir).StoreDir())
}

func TestCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s, err := bucketstore.Create(dir, narinfo.CacheInfo{Priority: 30, WantMassQuery: true}, nil)
	require.NoError(t, err)
	require.Equal(t, narinfo.CacheInfo{StoreDir: "/nix/store", Priority: 30, WantMassQuery: true}, s.CacheInfo())
	require.NoError(t, s.Close())
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, "nix-cache-info")}, names)
	hidden, err := filepath.Glob(filepath.Join(dir, ".*"))
	require.NoError(t, err)
	require.Empty(t, hidden)

	s, err = bucketstore.Create(dir, narinfo.CacheInfo{Priority: 99}, nil)
	require.NoError(t, err)
	require.Equal(t, 30, s.CacheInfo().Priority, "what is there stays")
	require.NoError(t, s.Close())
	_, err = bucketstore.Create(dir, narinfo.CacheInfo{StoreDir: "/other/store"}, nil)
	require.ErrorContains(t, err, `is a binary cache for "/nix/store", not "/other/store"`)
	_, err = bucketstore.Create(t.TempDir(), narinfo.CacheInfo{StoreDir: "other"}, nil)
	require.ErrorContains(t, err, "the directory is not absolute")
}

// Real Nix takes a created cache for its own.
func TestRealNixCopiesToCreated(t *testing.T) {
	for _, n := range realnix.All(t) {
		dir := n.TempDir(t)
		s, err := bucketstore.Create(n.Host(path.Join(dir, "cache")), narinfo.CacheInfo{}, nil)
		require.NoError(t, err)
		entries := realCache(t, n, dir, "")
		for _, e := range entries {
			info, err := store.Lookup(t.Context(), s, e.Info.StorePath)
			require.NoError(t, err)
			require.NoError(t, store.Verify(t.Context(), s, info))
		}
		require.NoError(t, s.Close())
	}
}
