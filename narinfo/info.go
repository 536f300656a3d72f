// Package narinfo reads and writes the metadata of Nix binary caches: narinfo files, nix-cache-info, and the values in
// them (store paths, hashes, content addresses).
//
// Most callers want [Parse] and [Info.MarshalText]; servers that sign, [Info.Sign]; clients, [Info.VerifiedBy].
//
// # Format
//
// A narinfo is lines of NAME ": " VALUE "\n", the last one's newline included. Its canonical form, which Nix writes and
// [Info.MarshalText] too, has the fields in this order:
//
//	StorePath    the whole path
//	URL          of the archive, relative to the cache's root; percent-encoded or not, a query is allowed
//	Compression  none, xz, zstd, bzip2, gzip, br …; absent or empty means bzip2 to Nix
//	FileHash     of the file at URL                                                                        optional
//	FileSize     of the file at URL, in bytes                                                              optional
//	NarHash      of the decompressed archive, always SHA-256
//	NarSize      of the decompressed archive, in bytes, never 0
//	References   base names, sorted, each once, separated by a space; an empty value for none
//	Deriver      base name                                                                                 optional
//	System       as nix-serve and old caches write it; Nix skips it                                        optional
//	Sig          one signature; any number of lines                                                        optional
//	CA           content address                                                                           optional
//
// Hashes are written as TYPE ":" BASE32, numbers in decimal.
// After CA come the fields that this package does not know, in the order in which they were read.
//
// # What Parse accepts
//
// Any order; References unsorted or repeated (they are sorted and compacted) or absent; hashes in base 32, base 16,
// base 64 and SRI form; "Deriver: unknown-deriver"; empty Compression, System and CA.
// StorePath, URL, NarHash and NarSize must be there.
// A signature whose second part is no base 64 is kept as well, but Nix 2.34 refuses the whole narinfo for it.
//
// It refuses what Nix would read in some other way than a person does: a single-valued field that comes twice (Nix
// takes the last one, and for References and CA fails too), a line without ": " (Nix takes the next line for a part
// of it), a last line without newline, numbers with signs or leading zeros, base 32 with stray padding bits, a NarHash
// that isn't SHA-256 (Nix aborts when it writes such a narinfo).
//
// Limits: a text has at most [MaxSize] bytes, 4,096 signatures and unknown fields, and References that as whole paths
// have at most twice MaxSize. So memory is at most some five times MaxSize, whatever the text.
//
// Format(Parse(b)) == b for canonical b, and Parse(Format(x)) equals x for every x that Format accepts.
package narinfo

import (
	"slices"

	"github.com/voidnxlab/nixtrap/signing"
)

// Info is what a narinfo says of one store path.
// It is plain data: whoever shares one between goroutines must not change it.
type Info struct {
	StorePath   StorePath
	URL         string      // relative to the cache's root
	Compression string      // "" is written as nothing and means bzip2 to Nix; "none", "zstd", "xz" …
	FileHash    Hash        // of the file at URL; zero: absent
	FileSize    int64       // bytes; 0: absent
	NarHash     Hash        // SHA-256
	NarSize     int64       // bytes; never 0
	References  []StorePath // in StorePath's directory; sorted, each once; may hold StorePath itself
	Deriver     StorePath   // in StorePath's directory; "": unknown
	System      string      // "": absent
	Signatures  []signing.Signature
	CA          ContentAddress // "": not content-addressed
	Extra       []Field        // unknown fields, in their order
}

// Field is one line that this package does not know.
type Field struct{ Name, Value string }

// Clone returns a deep copy.
func (i *Info) Clone() *Info {
	c := *i
	c.References = slices.Clone(i.References)
	c.Signatures = slices.Clone(i.Signatures)
	c.Extra = slices.Clone(i.Extra)
	return &c
}

// Equal reports whether two say the same; nil and empty slices are alike.
func (i *Info) Equal(j *Info) bool {
	return i.StorePath == j.StorePath && i.URL == j.URL && i.Compression == j.Compression &&
		i.FileHash == j.FileHash && i.FileSize == j.FileSize && i.NarHash == j.NarHash && i.NarSize == j.NarSize &&
		slices.Equal(i.References, j.References) && i.Deriver == j.Deriver && i.System == j.System &&
		slices.Equal(i.Signatures, j.Signatures) && i.CA == j.CA && slices.Equal(i.Extra, j.Extra)
}

// Fingerprint returns what signatures sign: "1;PATH;sha256:BASE32;SIZE;REF,REF", all paths whole.
// It covers StorePath, NarHash, NarSize and References, which must be set and sorted as their comments say.
// Nothing else is covered: URL, Compression, Deriver and CA are anybody's claim.
func (i *Info) Fingerprint() []byte {
	size := len("1;;;;") + len(i.StorePath) + maxHashText + maxDigits
	for _, r := range i.References {
		size += len(r) + 1
	}
	b := append(make([]byte, 0, size), "1;"...)
	b = append(append(b, i.StorePath...), ';')
	b = append(i.NarHash.appendText(b), ';')
	b = append(appendInt(b, i.NarSize), ';')
	for n, r := range i.References {
		if n > 0 {
			b = append(b, ',')
		}
		b = append(b, r...)
	}
	return b
}

// Sign adds the key's signature, in place of any signature under the same key name.
// The signatures are then sorted, as in a narinfo that Nix writes.
func (i *Info) Sign(k *signing.SecretKey) { i.AddSignatures(k.Sign(i.Fingerprint())) }

// AddSignatures is [Info.Sign] with signatures that were made before.
func (i *Info) AddSignatures(sigs ...signing.Signature) {
	i.Signatures = slices.DeleteFunc(i.Signatures, func(old signing.Signature) bool {
		return slices.ContainsFunc(sigs, func(s signing.Signature) bool { return s.KeyName() == old.KeyName() })
	})
	i.Signatures = append(i.Signatures, sigs...)
	slices.Sort(i.Signatures)
}

// VerifiedBy returns the first key of the ring that made one of the signatures.
// Nix also trusts a path without any signature if StorePath can be computed from CA: see [Info.ContentPath].
func (i *Info) VerifiedBy(ring signing.Keyring) (signing.PublicKey, bool) {
	if len(i.Signatures) == 0 || len(ring) == 0 {
		return signing.PublicKey{}, false
	}
	return ring.Verify(i.Fingerprint(), i.Signatures...)
}
