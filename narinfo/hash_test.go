package narinfo_test

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
)

func digests() map[narinfo.HashType][]byte {
	m, s1, s256, s512 := md5.Sum(nil), sha1.Sum(nil), sha256.Sum256(nil), sha512.Sum512(nil)
	return map[narinfo.HashType][]byte{
		narinfo.MD5: m[:], narinfo.SHA1: s1[:], narinfo.SHA256: s256[:], narinfo.SHA512: s512[:],
		narinfo.BLAKE3: s256[:],
	}
}

func hash(t testing.TB, typ narinfo.HashType, digest []byte) narinfo.Hash {
	t.Helper()
	h, err := narinfo.NewHash(typ, digest)
	require.NoError(t, err)
	return h
}

func TestEveryNotationReadsBack(t *testing.T) {
	for typ, digest := range digests() {
		h := hash(t, typ, digest)
		name := typ.String() + ":"
		for _, text := range []string{h.String(), name + h.Base32(), name + h.Base16(), name + h.Base64(), h.SRI()} {
			got, err := narinfo.ParseHash(text)
			require.NoError(t, err, text)
			require.Equal(t, h, got, text)
		}
		for _, text := range []string{h.Base32(), h.Base16(), h.Base64()} {
			got, err := narinfo.ParseDigest(typ, text)
			require.NoError(t, err, text)
			require.Equal(t, h, got, text)
		}
		require.Equal(t, digest, h.Digest())
		require.Equal(t, typ, h.Type())
		require.Len(t, digest, typ.Size())
	}
}

// The empty string's SHA-256 in the notations of "nix hash".
func TestNotations(t *testing.T) {
	h := hash(t, narinfo.SHA256, digests()[narinfo.SHA256])
	require.Equal(t, "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73", h.String())
	require.Equal(t, "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73", h.Base32())
	require.Equal(t, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", h.Base16())
	require.Equal(t, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", h.Base64())
	require.Equal(t, "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", h.SRI())
}

func TestZeroHash(t *testing.T) {
	var h narinfo.Hash
	require.True(t, h.IsZero())
	for _, s := range []string{h.String(), h.Base32(), h.Base16(), h.Base64(), h.SRI(), h.Type().String()} {
		require.Empty(t, s)
	}
	require.Empty(t, h.Digest())
	require.False(t, hash(t, narinfo.MD5, make([]byte, 16)).IsZero(), "a digest of zeros is a hash")
	require.Empty(t, narinfo.HashType(200).String())
	require.Zero(t, narinfo.HashType(200).Size())
}

func TestDigestIsACopy(t *testing.T) {
	h := hash(t, narinfo.SHA1, make([]byte, 20))
	h.Digest()[0] = 1
	require.Equal(t, make([]byte, 20), h.Digest())
}

func TestNewHashRefuses(t *testing.T) {
	for typ := range digests() {
		for _, n := range []int{0, typ.Size() - 1, typ.Size() + 1} {
			_, err := narinfo.NewHash(typ, make([]byte, n))
			require.ErrorContains(t, err, "wrong length", "%s %d", typ, n)
		}
	}
	for _, typ := range []narinfo.HashType{0, 6, 255} {
		_, err := narinfo.NewHash(typ, nil)
		require.ErrorContains(t, err, "unknown hash type")
		_, err = narinfo.ParseDigest(typ, "")
		require.ErrorContains(t, err, "unknown hash type")
	}
}

func TestParseHashRefuses(t *testing.T) {
	good := hash(t, narinfo.SHA256, digests()[narinfo.SHA256])
	// 52 characters hold 260 bits: the first one's upper four are padding.
	stray := "sha256:" + "z" + good.Base32()[1:]
	base64Stray := strings.TrimSuffix(good.Base64(), "U=") + "V="
	for name, c := range map[string]struct{ text, want string }{
		"empty":              {"", "neither TYPE:DIGEST nor TYPE-BASE64"},
		"digest alone":       {good.Base32(), "neither TYPE:DIGEST nor TYPE-BASE64"},
		"no digest":          {"sha256:", "wrong length"},
		"unknown type":       {"sha3:" + good.Base32(), "unknown hash type"},
		"upper-case type":    {"SHA256:" + good.Base32(), "unknown hash type"},
		"no type":            {":" + good.Base32(), "unknown hash type"},
		"another type":       {"sha1:" + good.Base32(), "wrong length"},
		"too short":          {good.String()[:58], "wrong length"},
		"too long":           {good.String() + "0", "wrong length"},
		"letter e":           {"sha256:" + strings.Replace(good.Base32(), "0", "e", 1), "not a canonical encoding"},
		"upper case":         {"sha256:" + strings.ToUpper(good.Base32()), "not a canonical encoding"},
		"stray bits":         {stray, "not a canonical encoding"},
		"base 16 with g":     {"sha256:g" + good.Base16()[1:], "not a canonical encoding"},
		"base 64 stray bits": {"sha256:" + base64Stray, "not a canonical encoding"},
		"base 64 unpadded":   {"sha256-" + strings.TrimSuffix(good.Base64(), "="), "wrong length"},
		"base 64 newlines":   {"sha256:\n\n\n\n" + good.Base64()[4:], "not a canonical encoding"},
		"base 64 url":        {"sha256-" + strings.Repeat("_", 43) + "=", "not a canonical encoding"},
		"SRI of base 16":     {"sha256-" + good.Base16(), "wrong length"},
		"SRI of base 32":     {"sha256-" + good.Base32(), "wrong length"},
		"SRI with options":   {good.SRI() + "?x", "wrong length"},
		"long":               {strings.Repeat("x", 10_000), "neither"},
	} {
		_, err := narinfo.ParseHash(c.text)
		require.ErrorContains(t, err, c.want, name)
		require.ErrorContains(t, err, "narinfo: hash ", name)
		require.Less(t, len(err.Error()), 500, name)
	}
}

func FuzzHash(f *testing.F) {
	for typ, digest := range digests() {
		h := hash(f, typ, digest)
		f.Add(h.String())
		f.Add(h.SRI())
		f.Add(typ.String() + ":" + h.Base16())
		f.Add(typ.String() + ":" + h.Base64())
	}
	f.Fuzz(func(t *testing.T, text string) {
		h, err := narinfo.ParseHash(text)
		if err != nil {
			return
		}
		again, err := narinfo.ParseHash(h.String())
		require.NoError(t, err)
		require.Equal(t, h, again)
		name := h.Type().String() + ":"
		require.Contains(t, []string{h.String(), h.SRI(), name + h.Base16(), name + h.Base64()},
			lowerBase16(text, h), "one spelling in each notation")
		digest, err := nixbase32.DecodeString(h.Base32())
		require.NoError(t, err)
		require.Equal(t, digest, h.Digest(), "another decoder agrees")
	})
}

// lowerBase16 lowers a text in base 16, the one notation whose letters may be of either case.
func lowerBase16(text string, h narinfo.Hash) string {
	if _, digest, _ := strings.Cut(text, ":"); len(digest) == 2*h.Type().Size() {
		return strings.ToLower(text)
	}
	return text
}

func TestRealNixNotations(t *testing.T) {
	for _, n := range realnix.All(t) {
		for _, typ := range []narinfo.HashType{narinfo.MD5, narinfo.SHA1, narinfo.SHA256, narinfo.SHA512} {
			h := hash(t, typ, digests()[typ])
			for flag, want := range map[string]string{"to-base32": h.Base32(), "to-base16": h.Base16(), "to-base64": h.Base64(), "to-sri": h.SRI()} {
				got := n.Run(t, "nix", "--extra-experimental-features", "nix-command", "hash", flag, "--type", typ.String(), h.Base16())
				require.Equal(t, want, got, "Nix %s", n.Release)
			}
		}
	}
}
