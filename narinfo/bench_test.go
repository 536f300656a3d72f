package narinfo_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

func BenchmarkParse(b *testing.B) {
	text := []byte(full)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := narinfo.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendText(b *testing.B) {
	info := parse(b, full)
	var buf []byte
	b.SetBytes(int64(len(full)))
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = info.AppendText(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	info := parse(b, full)
	k, err := signing.GenerateKey("a-1")
	require.NoError(b, err)
	b.SetBytes(int64(len(info.Fingerprint())))
	b.ReportAllocs()
	for b.Loop() {
		info.Sign(k)
	}
}

func BenchmarkFingerprint(b *testing.B) {
	info := parse(b, full)
	b.SetBytes(int64(len(info.Fingerprint())))
	b.ReportAllocs()
	for b.Loop() {
		info.Fingerprint()
	}
}

func BenchmarkVerifiedBy(b *testing.B) {
	info := parse(b, full)
	k, err := signing.GenerateKey("a-1")
	require.NoError(b, err)
	info.Sign(k)
	b.SetBytes(int64(len(info.Fingerprint())))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := info.VerifiedBy(signing.Keyring{k.Public()}); !ok {
			b.Fatal("not verified")
		}
	}
}
