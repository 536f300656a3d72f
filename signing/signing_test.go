package signing_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/signing"
)

func key(t testing.TB, name string) *signing.SecretKey {
	t.Helper()
	k, err := signing.GenerateKey(name)
	require.NoError(t, err)
	return k
}

func TestSignatureVerifies(t *testing.T) {
	k := key(t, "one-1")
	for _, message := range []string{"", "x", "1;/nix/store/…", strings.Repeat("long ", 1<<16)} {
		s := k.Sign([]byte(message))
		require.Equal(t, "one-1", s.KeyName())
		require.True(t, k.Public().Verify([]byte(message), s))
		require.Equal(t, s, k.Sign([]byte(message)), "Ed25519 is deterministic")
	}
}

// Every change of any one byte of a signature or its message must fail.
func TestMangledSignatureFails(t *testing.T) {
	k := key(t, "one-1")
	message := []byte("1;/nix/store/x;sha256:y;1;")
	s := k.Sign(message)
	for i := range s {
		for c := range 256 {
			if byte(c) == s[i] {
				continue
			}
			mangled := []byte(s)
			mangled[i] = byte(c)
			require.False(t, k.Public().Verify(message, signing.Signature(mangled)), "byte %d is %q", i, c)
		}
		require.False(t, k.Public().Verify(message, s[:i]), "cut to %d bytes", i)
		require.False(t, k.Public().Verify(message, s[:i]+"\n"+s[i:]), "a newline at %d", i)
		require.False(t, k.Public().Verify(message, s[:i]+"A"+s[i:]), "one more letter at %d", i)
	}
	for i := range message {
		for bit := range 8 {
			mangled := []byte(string(message))
			mangled[i] ^= 1 << bit
			require.False(t, k.Public().Verify(mangled, s), "bit %d of message byte %d", bit, i)
		}
	}
	require.False(t, k.Public().Verify(message[1:], s))
	require.False(t, k.Public().Verify(message, s+"="))
	require.False(t, k.Public().Verify(message, ""))
}

func TestOtherKeysDoNotVerify(t *testing.T) {
	message := []byte("m")
	one, sameName, other := key(t, "one-1"), key(t, "one-1"), key(t, "other-1")
	s := one.Sign(message)
	require.False(t, sameName.Public().Verify(message, s))
	require.False(t, other.Public().Verify(message, s))
	renamed := signing.Signature("other-1:" + strings.TrimPrefix(string(s), "one-1:"))
	require.False(t, one.Public().Verify(message, renamed), "the name counts")
	require.False(t, signing.PublicKey{}.Verify(message, s))
	require.False(t, signing.PublicKey{}.Verify(message, signing.Signature(strings.TrimPrefix(string(s), "one-1"))))
}

func TestKeyringTriesEveryKeyAndSignature(t *testing.T) {
	message := []byte("m")
	a, b, rotated := key(t, "a-1"), key(t, "b-1"), key(t, "a-1")
	ring := signing.Keyring{rotated.Public(), a.Public(), b.Public()}

	by, ok := ring.Verify(message, "garbage", "c-1:AAAA", b.Sign(message))
	require.True(t, ok)
	require.Equal(t, b.Public(), by)

	by, ok = ring.Verify(message, b.Sign(message), a.Sign(message))
	require.True(t, ok)
	require.Equal(t, a.Public(), by, "the ring's order decides; two keys of one name are both tried")

	_, ok = ring.Verify(message, a.Sign([]byte("other")))
	require.False(t, ok)
	_, ok = ring.Verify(message)
	require.False(t, ok)
	_, ok = signing.Keyring(nil).Verify(message, a.Sign(message))
	require.False(t, ok)
}

func TestKeyName(t *testing.T) {
	for s, want := range map[signing.Signature]string{"a:b": "a", "a:b:c": "a", "": "", "a": "", ":b": ""} {
		require.Equal(t, want, s.KeyName(), "%q", s)
	}
}

func TestPublicKeyRoundTrip(t *testing.T) {
	k := key(t, "one-1").Public()
	parsed, err := signing.ParsePublicKey(" \n" + k.String() + "\t\n")
	require.NoError(t, err)
	require.Equal(t, k, parsed)
	require.Equal(t, "one-1", parsed.Name())
}

func TestParseKeyring(t *testing.T) {
	a, b := key(t, "a").Public(), key(t, "b").Public()
	ring, err := signing.ParseKeyring(" " + a.String() + "\n\t" + b.String() + " ")
	require.NoError(t, err)
	require.Equal(t, signing.Keyring{a, b}, ring)
	ring, err = signing.ParseKeyring(" \n")
	require.NoError(t, err)
	require.Empty(t, ring)
	_, err = signing.ParseKeyring(a.String() + " nonsense")
	require.ErrorContains(t, err, "signing: public key: not of the form NAME:BASE64")
}

func TestParsePublicKeyRefuses(t *testing.T) {
	good := key(t, "one-1").Public().String()
	encoded := strings.TrimPrefix(good, "one-1:")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	require.NoError(t, err)
	strayBit := []byte(good)
	strayBit[len(good)-2]++ // the last letter has two bits that nobody needs
	for name, text := range map[string]string{
		"empty":          "",
		"no colon":       encoded,
		"no name":        ":" + encoded,
		"space in name":  "on e:" + encoded,
		"nul in name":    "on\x00e:" + encoded,
		"not utf-8":      "on\xffe:" + encoded,
		"two colons":     "one::" + encoded,
		"no padding":     strings.TrimSuffix(good, "="),
		"more padding":   good + "=",
		"stray bits":     string(strayBit),
		"newline inside": good[:20] + "\n" + good[20:],
		"url alphabet":   "one-1:" + base64.URLEncoding.EncodeToString([]byte(strings.Repeat("\xff", 32))),
		"31 bytes":       "one-1:" + base64.StdEncoding.EncodeToString(raw[:31]),
		"33 bytes":       "one-1:" + base64.StdEncoding.EncodeToString(append(raw, 0)),
		"a secret key":   secret(t, key(t, "one-1")),
	} {
		k, err := signing.ParsePublicKey(text)
		require.ErrorContains(t, err, "signing: public key: ", name)
		require.Zero(t, k, name)
	}
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add("one-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	f.Add("a:b")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := signing.ParsePublicKey(text)
		if err != nil {
			return
		}
		require.Equal(t, strings.TrimSpace(text), k.String(), "a key has one spelling")
	})
}

func BenchmarkSign(b *testing.B) {
	k, message := key(b, "one-1"), make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		k.Sign(message)
	}
}

func BenchmarkVerify(b *testing.B) {
	k, message := key(b, "one-1"), make([]byte, 512)
	s, public := k.Sign(message), k.Public()
	b.ReportAllocs()
	for b.Loop() {
		if !public.Verify(message, s) {
			b.Fatal("does not verify")
		}
	}
}

func TestWellFormed(t *testing.T) {
	k, err := signing.GenerateKey("k-1")
	require.NoError(t, err)
	for s, want := range map[signing.Signature]bool{
		k.Sign(nil): true, "a:AAAA": true, "": false, "a": false, "a:": false, ":AAAA": false, "a:x:AAAA": false, "a:?": false,
	} {
		require.Equal(t, want, s.WellFormed(), "%q", s)
	}
}
