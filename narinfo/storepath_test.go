package narinfo_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/storepath"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
)

const hashPart = "7cjm1pm3vjf8zqhl2gmmrq3l65l8sz1d"

func TestStorePathParts(t *testing.T) {
	for _, c := range []struct{ dir, name string }{
		{"/nix/store", "hello-2.12"}, {"/nix/store", "a"}, {"/s", "x.drv"}, {"/home/me/my store/nix", "-"},
	} {
		p, err := narinfo.ParseStorePath(c.dir + "/" + hashPart + "-" + c.name)
		require.NoError(t, err)
		joined, err := narinfo.NewStorePath(c.dir, hashPart+"-"+c.name)
		require.NoError(t, err)
		require.Equal(t, p, joined)
		require.Equal(t, c.dir, p.Dir())
		require.Equal(t, hashPart+"-"+c.name, p.Base())
		require.Equal(t, narinfo.HashPart(hashPart), p.HashPart())
		require.Equal(t, c.name, p.Name())
		require.Equal(t, strings.HasSuffix(c.name, ".drv"), p.IsDerivation())
	}
}

// The methods of what is no store path answer something and do not panic.
func TestConvertedStorePathsDoNotPanic(t *testing.T) {
	for _, p := range []narinfo.StorePath{"", "/", "x", "/nix/store/", "/nix/store/" + hashPart, "/nix/store/" + hashPart + "-"} {
		_ = p.Dir() + p.Base() + string(p.HashPart()) + p.Name()
		require.False(t, p.IsDerivation())
	}
}

// names says which names Nix 2.34 allows.
var names = map[string]bool{
	"": false, "a": true, ".": false, "..": false, ".-": false, "..-": false, ".-a": false, "..-a": false,
	".a": true, "..a": true, "...": true, ".a-b": true, "a.": true, "-": true, "-.": true, "...-a": true, "..a-": true,
	"+-._?=": true, "0": true, "Z": true, "a b": false, "a/b": false, "a\x00": false, "a\n": false, "a,b": false, "a~": false,
	"ä": false, "a*": false, "a:b": false, "@": false,
	strings.Repeat("a", 211): true, strings.Repeat("a", 212): false,
}

func TestNames(t *testing.T) {
	for name, ok := range names {
		_, err := narinfo.ParseStorePath("/nix/store/" + hashPart + "-" + name)
		require.Equal(t, ok, err == nil, "%q: %v", name, err)
		_, err = narinfo.NewStorePath("/nix/store", hashPart+"-"+name)
		require.Equal(t, ok, err == nil, "%q: %v", name, err)
	}
}

func TestRealNixAllowsTheSameNames(t *testing.T) {
	n := realnix.Get(t, "2.34")
	store := n.TempDir(t)
	for name, ok := range names {
		if strings.ContainsAny(name, "\x00\n") {
			continue // can't be written on a command line
		}
		expression := "(builtins.toFile " + strconv.Quote(name) + ` "x")`
		err := n.Command(t, "nix-instantiate", "--store", store, "--eval", "-E", expression).Run()
		require.Equal(t, ok, err == nil, "%q", name)
	}
}

func TestParseStorePathRefuses(t *testing.T) {
	const base = hashPart + "-x"
	for path, want := range map[string]string{
		"":                           "the directory is not absolute",
		base:                         "the directory is not absolute",
		"/" + base:                   "the directory is not absolute",
		"//" + base:                  "the directory is not absolute",
		"nix/store/" + base:          "the directory is not absolute",
		"/nix//store/" + base:        "the directory is not clean",
		"/nix/store//" + base:        "the directory is not clean",
		"/nix/./store/" + base:       "the directory is not clean",
		"/nix/../store/" + base:      "the directory is not clean",
		"/nix/st\nore/" + base:       "the directory has a control character",
		"/nix/st\x00ore/" + base:     "the directory has a control character",
		"/nix/store/" + base + "/":   "no 32 characters and a dash",
		"/nix/store/" + base + "/x":  "no 32 characters and a dash",
		"/nix/store/":                "no 32 characters and a dash",
		"/nix/store/" + hashPart:     "no 32 characters and a dash",
		"/nix/store/x" + base:        "no 32 characters and a dash",
		"/nix/store/" + base[1:]:     "no 32 characters and a dash",
		"/nix/store/e" + base[1:]:    `'e' is not in Nix's base-32 alphabet`,
		"/nix/store/C" + base[1:]:    `'C' is not in Nix's base-32 alphabet`,
		strings.Repeat("/x", 10_000): "narinfo: store path ",
	} {
		_, err := narinfo.ParseStorePath(path)
		require.ErrorContains(t, err, want, "%.50q", path)
		require.Less(t, len(err.Error()), 500)
	}
}

func TestParseHashPart(t *testing.T) {
	h, err := narinfo.ParseHashPart(hashPart)
	require.NoError(t, err)
	require.Equal(t, narinfo.HashPart(hashPart), h)
	for _, s := range []string{"", hashPart[1:], hashPart + "0", hashPart + "-x"} {
		_, err := narinfo.ParseHashPart(s)
		require.ErrorContains(t, err, "characters, not 32")
	}
	for c := range 256 {
		_, err := narinfo.ParseHashPart(hashPart[1:] + string([]byte{byte(c)}))
		require.Equal(t, strings.ContainsRune("0123456789abcdfghijklmnpqrsvwxyz", rune(c)) && c < 128, err == nil, "%q", c)
	}
}

func FuzzStorePath(f *testing.F) {
	for name := range names {
		f.Add("/nix/store/" + hashPart + "-" + name)
	}
	f.Add("/gnu/../store/" + hashPart + "-x")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := narinfo.ParseStorePath(s)
		// The other parser knows /nix/store alone and neither the length nor the dots of names; it panics on some
		// short input, takes any character for the dash, and lower-case hash parts only by accident.
		if strings.HasPrefix(s, "/nix/store/") && len(s) > 50 {
			if _, other := storepath.FromAbsolutePath(s); err == nil {
				require.NoError(t, other, "%q", s)
			}
		}
		if err != nil {
			return
		}
		require.Equal(t, s, p.Dir()+"/"+string(p.HashPart())+"-"+p.Name())
		again, err := narinfo.NewStorePath(p.Dir(), p.Base())
		require.NoError(t, err)
		require.Equal(t, p, again)
	})
}
