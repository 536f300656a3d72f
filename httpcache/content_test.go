package httpcache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// The same table runs over every kind of body with a length: one at hand, one from a store, a file.
func TestConditionsAndRanges(t *testing.T) {
	w := newBucket(t)
	l := &live{world: w.world, cache: newArtefacts(t, t.TempDir())}
	h := l.handler(t, w)
	require.Equal(t, http.StatusOK, get(h, artefactURL(w.other, "z2")).StatusCode)
	l.settle(t)
	for kind, url := range map[string]string{
		"artefact": artefactURL(w.other, "z2"),
		"narinfo":  w.urls()["narinfo"],
		"NAR":      w.urls()["NAR"],
		"file":     w.urls()["file"],
		"archive":  w.archiveURL(),
		"stored":   "/" + w.key,
	} {
		full := get(h, url)
		require.Equal(t, http.StatusOK, full.StatusCode, kind)
		all := body(t, full)
		etag, size := full.Header.Get("ETag"), len(all)
		require.NotEmpty(t, etag, kind)
		require.Equal(t, "bytes", full.Header.Get("Accept-Ranges"), kind)
		const huge, past = "99999999999999999999999", "Thu, 01 Jan 1970 00:00:01 GMT"
		for name, tt := range map[string]struct {
			headers []string
			status  int
			part    string
			first   int // of the part, for a 206
		}{
			"no condition":                   {nil, 200, all, 0},
			"first byte":                     {[]string{"Range", "bytes=0-0"}, 206, all[:1], 0},
			"middle":                         {[]string{"Range", "bytes=3-7"}, 206, all[3:8], 3},
			"from":                           {[]string{"Range", "bytes=5-"}, 206, all[5:], 5},
			"whole as a range":               {[]string{"Range", "bytes=0-"}, 206, all, 0},
			"last byte":                      {[]string{"Range", fmt.Sprintf("bytes=%d-", size-1)}, 206, all[size-1:], size - 1},
			"suffix":                         {[]string{"Range", "bytes=-4"}, 206, all[size-4:], size - 4},
			"suffix beyond the size":         {[]string{"Range", fmt.Sprintf("bytes=-%d", size+9)}, 206, all, 0},
			"suffix of an absurd size":       {[]string{"Range", "bytes=-" + huge}, 206, all, 0},
			"end beyond the size":            {[]string{"Range", fmt.Sprintf("bytes=2-%d", size+9)}, 206, all[2:], 2},
			"absurd end":                     {[]string{"Range", "bytes=2-" + huge}, 206, all[2:], 2},
			"spaces":                         {[]string{"Range", "bytes= 3 - 7 "}, 206, all[3:8], 3},
			"capitals":                       {[]string{"Range", "Bytes=3-7"}, 206, all[3:8], 3},
			"begin at the size":              {[]string{"Range", fmt.Sprintf("bytes=%d-", size)}, 416, "", 0},
			"begin beyond the size":          {[]string{"Range", fmt.Sprintf("bytes=%d-%d", size+1, size+2)}, 416, "", 0},
			"absurd begin":                   {[]string{"Range", "bytes=" + huge + "-"}, 416, "", 0},
			"empty suffix":                   {[]string{"Range", "bytes=-0"}, 416, "", 0},
			"backwards":                      {[]string{"Range", "bytes=7-3"}, 200, all, 0},
			"other unit":                     {[]string{"Range", "lines=0-1"}, 200, all, 0},
			"no unit":                        {[]string{"Range", "0-1"}, 200, all, 0},
			"no numbers":                     {[]string{"Range", "bytes=-"}, 200, all, 0},
			"signs":                          {[]string{"Range", "bytes=+1-2"}, 200, all, 0},
			"two ranges":                     {[]string{"Range", "bytes=0-1,3-4"}, 200, all, 0},
			"If-None-Match fits":             {[]string{"If-None-Match", etag}, 304, "", 0},
			"If-None-Match fits weakly":      {[]string{"If-None-Match", `"x", W/` + etag}, 304, "", 0},
			"If-None-Match of any":           {[]string{"If-None-Match", "*"}, 304, "", 0},
			"If-None-Match fits not":         {[]string{"If-None-Match", `"x"`}, 200, all, 0},
			"If-None-Match before a range":   {[]string{"If-None-Match", etag, "Range", "bytes=0-0"}, 304, "", 0},
			"If-Range fits":                  {[]string{"If-Range", etag, "Range", "bytes=0-0"}, 206, all[:1], 0},
			"If-Range fits not":              {[]string{"If-Range", `"x"`, "Range", "bytes=0-0"}, 200, all, 0},
			"If-Range fits only weakly":      {[]string{"If-Range", "W/" + etag, "Range", "bytes=0-0"}, 200, all, 0},
			"If-Range with a date":           {[]string{"If-Range", past, "Range", "bytes=0-0"}, 200, all, 0},
			"If-Range stale, absurd range":   {[]string{"If-Range", `"x"`, "Range", "bytes=" + huge + "-"}, 200, all, 0},
			"If-Modified-Since means naught": {[]string{"If-Modified-Since", "Fri, 01 Jan 2100 00:00:00 GMT"}, 200, all, 0},
		} {
			name = kind + ": " + name
			r := get(h, url, tt.headers...)
			got := body(t, r)
			require.Equal(t, tt.status, r.StatusCode, name)
			switch tt.status {
			case 416:
				require.Equal(t, fmt.Sprintf("bytes */%d", size), r.Header.Get("Content-Range"), name)
				require.Equal(t, "no-store", r.Header.Get("Cache-Control"), name)
				continue
			case 304:
				require.Empty(t, got, name)
				require.Empty(t, r.Header.Get("Content-Length"), name)
				require.Equal(t, full.Header.Get("Cache-Control"), r.Header.Get("Cache-Control"), name)
			case 206:
				last := tt.first + len(tt.part) - 1
				require.Equal(t, fmt.Sprintf("bytes %d-%d/%d", tt.first, last, size), r.Header.Get("Content-Range"), name)
			case 200:
				require.Empty(t, r.Header.Get("Content-Range"), name)
			}
			require.Equal(t, tt.part, got, name)
			require.Equal(t, etag, r.Header.Get("ETag"), name)
			if tt.status != 304 {
				require.Equal(t, fmt.Sprint(len(tt.part)), r.Header.Get("Content-Length"), name)
			}
		}
		head := request(h, http.MethodHead, url, "Range", "bytes=0-0")
		require.Equal(t, http.StatusOK, head.StatusCode, "%s: ranges are for GET", kind)
	}
}

func TestAnyRangeIsThatSlice(t *testing.T) {
	w := newWorld()
	all := string(archiveOf(t, w, w.lib))
	url := "/nar/" + string(w.lib.StorePath.HashPart()) + "-" + w.lib.NarHash.Base32() + ".nar"
	h := newHandler(t, w, nil)
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		first := random.IntN(len(all))
		last := first + random.IntN(len(all)-first)
		r := get(h, url, "Range", fmt.Sprintf("bytes=%d-%d", first, last))
		require.Equal(t, http.StatusPartialContent, r.StatusCode)
		require.True(t, all[first:last+1] == body(t, r), "bytes %d-%d of %d", first, last, len(all))
	}
}

// bucket is a world whose tool is kept as a compressed file.
type bucket struct {
	*world
	key  string
	path string
}

var (
	_ store.ArchiveOpener = (*bucket)(nil)
	_ store.FileOpener    = (*bucket)(nil)
)

func newBucket(t *testing.T) *bucket {
	b := &bucket{world: newWorld(), path: filepath.Join(t.TempDir(), "archive")}
	compressed := strings.Repeat("not really zstd ", 10_000)
	require.NoError(t, os.WriteFile(b.path, []byte(compressed), 0o600))
	b.tool = b.tool.Clone()
	fileHash, err := narinfo.NewHash(narinfo.SHA256, make([]byte, 32))
	require.NoError(t, err)
	b.tool.Compression, b.tool.FileHash, b.tool.FileSize = "zstd", fileHash, int64(len(compressed))
	b.key = "nar/" + fileHash.Base32() + ".nar.zst"
	b.tool.URL = b.key
	b.AddInfo(b.tool, archiveOf(t, b, b.tool))
	return b
}

func (b *bucket) archiveURL() string { return b.urls()["NAR"] + ".zst" }

func (b *bucket) OpenArchive(context.Context, *narinfo.Info) (*store.File, error) {
	f, err := os.Open(b.path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	return &store.File{ReadSeekCloser: f, Size: st.Size()}, err
}

func (b *bucket) OpenFile(ctx context.Context, key string) (*store.File, error) {
	if key != b.key {
		return nil, store.ErrNotFound
	}
	return b.OpenArchive(ctx, nil)
}

func TestACompressedArchiveIsServedAsItIs(t *testing.T) {
	b := newBucket(t)
	h := newHandler(t, b, nil)
	info, err := narinfo.Parse([]byte(body(t, get(h, b.urls()["narinfo"]))))
	require.NoError(t, err)
	require.Equal(t, b.archiveURL(), "/"+info.URL)
	require.Equal(t, "zstd", info.Compression)
	require.Equal(t, b.tool.FileHash, info.FileHash)
	require.Equal(t, b.tool.FileSize, info.FileSize)

	r := get(h, "/"+info.URL)
	require.Len(t, body(t, r), int(b.tool.FileSize))
	require.Equal(t, "public, max-age=31536000, immutable", r.Header.Get("Cache-Control"))
	require.Empty(t, r.Header.Get("Content-Encoding"))

	require.Equal(t, string(archiveOf(t, b, b.tool)), body(t, get(h, b.urls()["NAR"])), "the NAR itself is there too")
	require.Equal(t, http.StatusNotFound, get(h, b.urls()["NAR"]+".xz").StatusCode, "another compression")
}

func TestABucketsOwnFileIsServedOnlyWithoutAPolicy(t *testing.T) {
	b := newBucket(t)
	require.Len(t, body(t, get(newHandler(t, b, nil), "/"+b.key)), int(b.tool.FileSize))
	all := httpcache.ClosureOf(b, func(context.Context) ([]narinfo.StorePath, error) {
		return []narinfo.StorePath{b.tool.StorePath}, nil
	}, 0)
	h := newHandler(t, b, &httpcache.Options{Policy: all})
	require.Equal(t, http.StatusNotFound, get(h, "/"+b.key).StatusCode)
	require.Equal(t, http.StatusOK, get(h, b.archiveURL()).StatusCode)
}

func TestAnArchiveOfTheWrongSizeIsNotFound(t *testing.T) {
	b := newBucket(t)
	require.NoError(t, os.Truncate(b.path, 1000))
	h := newHandler(t, b, nil)
	require.Equal(t, http.StatusNotFound, get(h, b.archiveURL()).StatusCode)
}
