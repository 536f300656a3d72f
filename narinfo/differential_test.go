package narinfo_test

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	other "github.com/nix-community/go-nix/pkg/narinfo"
	"github.com/nix-community/go-nix/pkg/narinfo/signature"
	"github.com/nix-community/go-nix/pkg/nixhash"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
)

func addVectors(f *testing.F) {
	f.Helper()
	for _, v := range readVectors(f) {
		f.Add([]byte(v.text))
	}
}

// go-nix's parser must accept what ours accepts, as it was read, and take the same from it.
// Texts that it is known to refuse although they are good are left out by goNixRefuses.
// What it accepts and ours refuses is not looked at: it takes nearly anything (any paths, fields twice, empty lines,
// carriage returns at line ends, numbers with leading zeros, fields missing).
func FuzzParseAsGoNix(f *testing.F) {
	if strconv.IntSize < 64 {
		f.Skip("go-nix refuses sizes that do not fit an int of this machine")
	}
	addVectors(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		info, err := narinfo.Parse(text)
		if err != nil || goNixRefuses(text, info) {
			return
		}
		o, err := other.Parse(bytes.NewReader(text))
		require.NoError(t, err)
		require.Equal(t, string(info.StorePath), o.StorePath)
		require.Equal(t, info.URL, o.URL)
		require.Equal(t, info.NarHash.Digest(), o.NarHash.Digest())
		require.EqualValues(t, info.NarSize, o.NarSize)
		require.EqualValues(t, info.FileSize, o.FileSize)
		require.Equal(t, info.FileHash.IsZero(), o.FileHash == nil)
		if o.FileHash != nil {
			require.Equal(t, info.FileHash.Digest(), o.FileHash.Digest())
		}
		require.Equal(t, info.Deriver.Base(), o.Deriver)
		require.Equal(t, info.System, o.System)
		if info.Compression != "" || o.Compression != "bzip2" { // what absence means is written there
			require.Equal(t, info.Compression, o.Compression)
		}
		requireSameReferences(t, info, o)
		for i, s := range info.Signatures {
			require.Equal(t, string(s), o.Signatures[i].String())
		}
		if info.CA != "" { // which is kept there as it was spelled
			ca, err := narinfo.ParseContentAddress(o.CA)
			require.NoError(t, err)
			require.Equal(t, info.CA, ca)
		}
	})
}

// goNixRefuses is true for texts with what go-nix does not know: fields, hashes and signatures of other kinds than its
// own, ": " in a value, and lines over 1 MiB.
func goNixRefuses(text []byte, info *narinfo.Info) bool {
	for _, s := range info.Signatures {
		// It reads base 64 with stray bits and writes it without.
		if o, err := signature.ParseSignature(string(s)); err != nil || o.String() != string(s) {
			return true
		}
	}
	return len(info.Extra) > 0 || info.FileHash.Type() == narinfo.BLAKE3 ||
		strings.Contains(string(info.StorePath), ": ") || len(text) > 1<<20
}

// requireSameReferences compares as sets: go-nix keeps order, repetitions, and an empty one between two spaces.
func requireSameReferences(t *testing.T, info *narinfo.Info, o *other.NarInfo) {
	t.Helper()
	theirs := slices.DeleteFunc(slices.Clone(o.References), func(r string) bool { return r == "" })
	slices.Sort(theirs)
	theirs = slices.Compact(theirs)
	require.Len(t, theirs, len(info.References))
	for i, r := range info.References {
		require.Equal(t, r.Base(), theirs[i])
	}
}

// Both directions: each hash that ours accepts go-nix accepts, and each that go-nix writes as it read it ours accepts.
// (It also reads base 64 with stray bits, with newlines, and of one or two bytes too many, and does not know BLAKE3.)
func FuzzHashAsGoNix(f *testing.F) {
	for _, digest := range digests() {
		for _, h := range []narinfo.HashType{narinfo.MD5, narinfo.SHA1, narinfo.SHA256, narinfo.SHA512} {
			if h.Size() == len(digest) {
				f.Add(hash(f, h, digest).String())
				f.Add(hash(f, h, digest).SRI())
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		h, err := narinfo.ParseHash(text)
		o, otherErr := nixhash.ParseAny(text, nil)
		if err == nil && h.Type() != narinfo.BLAKE3 {
			require.NoError(t, otherErr)
			require.Equal(t, h.Type().String(), o.Algo().String())
			require.Equal(t, h.Digest(), o.Digest())
		}
		if otherErr == nil && o.String() == text && len(o.Digest()) == o.Algo().Func().Size() {
			require.NoError(t, err)
		}
	})
}

// The rules of the documentation, once more and in another way.
var (
	storePathForm = regexp.MustCompile(
		`^(/[^/\x00-\x1f\x7f]+)+/[0-9abcdfghijklmnpqrsvwxyz]{32}-([0-9a-zA-Z+._?=-]{1,211})$`)
	badName      = regexp.MustCompile(`^\.\.?(-|$)`)
	badComponent = regexp.MustCompile(`/\.\.?/`)
)

func FuzzStorePathForm(f *testing.F) {
	for name := range names {
		f.Add("/nix/store/" + hashPart + "-" + name)
	}
	for _, v := range readVectors(f) {
		line, _, _ := strings.Cut(v.text, "\n")
		f.Add(strings.TrimPrefix(line, "StorePath: "))
	}
	f.Fuzz(func(t *testing.T, s string) {
		m := storePathForm.FindStringSubmatch(s)
		want := m != nil && !badName.MatchString(m[2]) && !badComponent.MatchString(s) && strings.LastIndex(s, "/") <= 3850
		p, err := narinfo.ParseStorePath(s)
		require.Equal(t, want, err == nil, "%q: %v", s, err)
		if err == nil {
			require.Equal(t, s, string(p))
			require.Equal(t, m[2], p.Name())
		}
	})
}
