package httpcache_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// TestANarinfoFollowsWhatTheStoreSays changes what a text was written from, under the same hash part.
func TestANarinfoFollowsWhatTheStoreSays(t *testing.T) {
	w := newWorld()
	h := newHandler(t, w, &httpcache.Options{Keys: []*signing.SecretKey{newKey(t, "ours-1")}})
	url := w.urls()["narinfo"]
	first := get(h, url)
	before, err := narinfo.Parse([]byte(body(t, first)))
	require.NoError(t, err)
	require.Equal(t, first.Header.Get("Etag"), get(h, url).Header.Get("Etag"))

	e := w.Entries()[0]
	for _, other := range w.Entries() {
		if other.Info.StorePath == before.StorePath {
			e = other
		}
	}
	e.Info.Signatures = append(e.Info.Signatures, newKey(t, "theirs-1").Sign(e.Info.Fingerprint()))
	w.AddInfo(e.Info, e.NAR)
	second := get(h, url)
	after, err := narinfo.Parse([]byte(body(t, second)))
	require.NoError(t, err)
	require.Len(t, after.Signatures, len(before.Signatures)+1)
	require.NotEqual(t, first.Header.Get("Etag"), second.Header.Get("Etag"))
}
