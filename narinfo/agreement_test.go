package narinfo_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
)

// pathInfo is what "nix path-info --json" says of a path.
type pathInfo struct {
	NarHash, URL, Compression, DownloadHash, Deriver, CA string
	NarSize, DownloadSize                                int64
	References, Signatures                               []string
}

// onlyHere are vectors with signatures that Parse keeps without understanding them, and for which Nix 2.34 refuses the
// whole narinfo (2.8 and 2.26 don't).
var onlyHere = map[string]string{
	"signature-empty":           "signature is corrupt",
	"signature-of-another-kind": "invalid character in Base64 string",
}

// Nix reads every other vector that Parse accepts, and reads the same in it.
func TestRealNixReadsTheVectors(t *testing.T) {
	n := realnix.Get(t, "2.34")
	all := readVectors(t)
	for name, v := range all {
		if _, ok := v.canonical(t, all); !ok {
			continue
		}
		info := parse(t, v.text)
		if info.StorePath.Dir() != narinfo.DefaultStoreDir {
			continue // a cache for a client with another store
		}
		t.Run(name, func(t *testing.T) {
			out, err := readWithNix(t, n, info.StorePath, v.text)
			if want, ok := onlyHere[name]; ok {
				require.ErrorContains(t, err, want)
				return
			}
			require.NoError(t, err)
			requireSameInfo(t, info, out)
		})
	}
}

// readWithNix puts the narinfo into a cache and asks Nix what it says.
func readWithNix(t *testing.T, n realnix.Nix, p narinfo.StorePath, text string) (pathInfo, error) {
	t.Helper()
	cache := n.TempDir(t)
	files := map[string]string{"nix-cache-info": "StoreDir: /nix/store\n", string(p.HashPart()) + ".narinfo": text}
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(n.Host(cache), name), []byte(text), 0o644))
	}
	out, err := n.Command(t, "nix", "path-info", "--json", "--extra-experimental-features", "git-hashing",
		"--store", "file://"+cache, string(p)).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return pathInfo{}, errors.New(string(exit.Stderr))
	}
	require.NoError(t, err)
	var paths map[string]pathInfo
	require.NoError(t, json.Unmarshal(out, &paths), "%s", out)
	require.Contains(t, paths, string(p))
	return paths[string(p)], nil
}

func requireSameInfo(t *testing.T, info *narinfo.Info, nix pathInfo) {
	t.Helper()
	ours := pathInfo{
		NarHash: info.NarHash.SRI(), NarSize: info.NarSize, URL: info.URL, CA: string(info.CA), Deriver: string(info.Deriver),
		DownloadHash: info.FileHash.SRI(), DownloadSize: info.FileSize,
		Compression: cmp.Or(info.Compression, "bzip2"),
		References:  []string{},
		Signatures:  []string{},
	}
	for _, r := range info.References {
		ours.References = append(ours.References, string(r))
	}
	for _, s := range info.Signatures {
		ours.Signatures = append(ours.Signatures, string(s))
	}
	slices.Sort(ours.Signatures) // Nix keeps a set
	require.Equal(t, nix, ours)
}
