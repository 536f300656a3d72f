package narinfo_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
)

func TestParseContentAddress(t *testing.T) {
	h := hash(t, narinfo.SHA256, digests()[narinfo.SHA256])
	for _, method := range []string{"text:", "fixed:", "fixed:r:", "fixed:git:"} {
		for _, digest := range []string{h.Base32(), h.Base16(), h.Base64()} {
			ca, err := narinfo.ParseContentAddress(method + "sha256:" + digest)
			require.NoError(t, err)
			require.Equal(t, narinfo.ContentAddress(method+h.String()), ca)
			require.Equal(t, h, ca.Hash())
		}
	}
	for _, s := range []string{
		"", "text", "text:", "fixed:", "fixed:r:", h.String(), "text:" + h.SRI(), "text:r:" + h.String(),
		"fixed:x:" + h.String(), "fixed:r:r:" + h.String(), "fixed:" + h.Base32(), " fixed:" + h.String(), "fixed:" + h.String() + "\n",
	} {
		_, err := narinfo.ParseContentAddress(s)
		require.ErrorContains(t, err, "narinfo: content address ", "%q", s)
		require.Zero(t, narinfo.ContentAddress(s).Hash())
	}
}

func TestCacheInfo(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want narinfo.CacheInfo
	}{
		"empty":        {"", narinfo.CacheInfo{}},
		"as Nix does":  {"StoreDir: /nix/store\n", narinfo.CacheInfo{StoreDir: "/nix/store"}},
		"all":          {"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n", narinfo.CacheInfo{StoreDir: "/nix/store", WantMassQuery: true, Priority: 40}},
		"untidy":       {"\n\nPriority:40\r\nnonsense\nUnknown: x\n StoreDir: /x\nWantMassQuery: true\nStoreDir:\t/gnu/store", narinfo.CacheInfo{StoreDir: "/gnu/store", Priority: 40}},
		"last is best": {"Priority: 1\nPriority: 2\n", narinfo.CacheInfo{Priority: 2}},
	} {
		got, err := narinfo.ParseCacheInfo([]byte(c.text))
		require.NoError(t, err, name)
		require.Equal(t, &c.want, got, name)
		text, err := got.MarshalText()
		require.NoError(t, err, name)
		again, err := narinfo.ParseCacheInfo(text)
		require.NoError(t, err, name)
		require.Equal(t, got, again, name)
		if name == "all" || name == "as Nix does" {
			require.Equal(t, c.text, string(text))
		}
	}
	for text, want := range map[string]string{
		"Priority: x":              `nix-cache-info: Priority " x"`,
		"Priority: ":               `nix-cache-info: Priority " "`,
		"StoreDir: ":               "the directory is not absolute",
		"StoreDir: nix":            "the directory is not absolute",
		"StoreDir: /nix/../x":      "the directory is not clean",
		strings.Repeat("x", 1<<20): "1048576 bytes, more than 65536",
	} {
		_, err := narinfo.ParseCacheInfo([]byte(text))
		require.ErrorContains(t, err, want)
	}
	_, err := (&narinfo.CacheInfo{StoreDir: "/x\nPriority: 1"}).MarshalText()
	require.ErrorContains(t, err, "control character")
}
