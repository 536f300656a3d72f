package narinfo_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
)

var nixHashTypes = []narinfo.HashType{narinfo.MD5, narinfo.SHA1, narinfo.SHA256, narinfo.SHA512}

// samples are digests with every bit at both ends of the text set and not set, and random ones.
func samples(t testing.TB, typ narinfo.HashType) []narinfo.Hash {
	ones := slices.Repeat([]byte{0xff}, typ.Size())
	all := [][]byte{make([]byte, typ.Size()), ones}
	for bit := range 8 {
		first, last := make([]byte, typ.Size()), make([]byte, typ.Size())
		first[0], last[len(last)-1] = 1<<bit, 1<<bit
		all = append(all, first, last)
	}
	random := rand.NewChaCha8([32]byte{byte(typ)})
	for range 16 {
		b := make([]byte, typ.Size())
		_, _ = random.Read(b)
		all = append(all, b)
	}
	hashes := make([]narinfo.Hash, 0, len(all))
	for _, b := range all {
		hashes = append(hashes, hash(t, typ, b))
	}
	return hashes
}

// From every notation to every notation, as "nix hash" of Nix 2.34 has it.
func TestSampleHashesInRealNix(t *testing.T) {
	n := realnix.Get(t, "2.34")
	notations := map[string]func(narinfo.Hash) string{
		"to-base32": narinfo.Hash.Base32, "to-base16": narinfo.Hash.Base16,
		"to-base64": narinfo.Hash.Base64, "to-sri": narinfo.Hash.SRI,
	}
	for _, typ := range nixHashTypes {
		hashes := samples(t, typ)
		for command, notation := range notations {
			args, want := []string{"hash", command, "--type", typ.String()}, []string(nil)
			for i, h := range hashes {
				args = append(args, []string{h.Base32(), h.Base16(), h.Base64(), h.SRI()}[i%4])
				want = append(want, notation(h))
			}
			require.Equal(t, want, strings.Fields(n.Run(t, "nix", args...)), "%s of %s", command, typ)
		}
	}
}

const base32 = "0123456789abcdfghijklmnpqrsvwxyz"

// A digest's bits don't fill its base 32: the first character has room for more. Those bits must be 0.
func TestStrayBitsInBase32(t *testing.T) {
	spare := map[narinfo.HashType]int{narinfo.MD5: 2, narinfo.SHA1: 0, narinfo.SHA256: 4, narinfo.SHA512: 3}
	for _, typ := range nixHashTypes {
		good := hash(t, typ, make([]byte, typ.Size())).Base32()
		for value, letter := range base32 {
			_, err := narinfo.ParseHash(typ.String() + ":" + string(letter) + good[1:])
			require.Equal(t, value < 1<<(5-spare[typ]), err == nil, "%s %c", typ, letter)
		}
	}
}

// Nix 2.34 refuses the same.
func TestStrayBitsInRealNix(t *testing.T) {
	n := realnix.Get(t, "2.34")
	for _, typ := range nixHashTypes {
		good := hash(t, typ, make([]byte, typ.Size())).Base32()
		for _, letter := range "01248gz" {
			text := string(letter) + good[1:]
			_, err := narinfo.ParseDigest(typ, text)
			nixErr := n.Command(t, "nix", "hash", "to-base16", "--type", typ.String(), text).Run()
			require.Equal(t, nixErr == nil, err == nil, "%s %s", typ, text)
		}
	}
}
