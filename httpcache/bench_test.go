package httpcache_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// discard is a response that costs nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func benchmarkHandler(b *testing.B, h http.Handler, size int64, url string, headers ...string) {
	r := httptest.NewRequest(http.MethodGet, url, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(discard{http.Header{}}, r)
	}
}

func BenchmarkNarinfo(b *testing.B) {
	w := newWorld()
	for keys := range 3 {
		opts := &httpcache.Options{}
		for i := range keys {
			opts.Keys = append(opts.Keys, newKey(b, fmt.Sprintf("key-%d", i)))
		}
		b.Run(fmt.Sprintf("%d keys", keys), func(b *testing.B) {
			benchmarkHandler(b, newHandler(b, w, opts), 0, w.urls()["narinfo"])
		})
	}
}

func BenchmarkNAR(b *testing.B) {
	w := newWorld()
	big := w.Add("big", storetest.Files{"": strings.Repeat("x", 16<<20)})
	h := newHandler(b, w, nil)
	b.Run("small", func(b *testing.B) { benchmarkHandler(b, h, w.other.NarSize, narURL(w.other)) })
	b.Run("big", func(b *testing.B) { benchmarkHandler(b, h, big.NarSize, narURL(big)) })
	b.Run("range", func(b *testing.B) {
		benchmarkHandler(b, h, 64<<10, narURL(w.lib), "Range", "bytes=1000-66535")
	})
}

// BenchmarkConnection is one keep-alive connection over loopback TCP.
func BenchmarkConnection(b *testing.B) {
	w := newWorld()
	big := w.Add("big", storetest.Files{"": strings.Repeat("x", 16<<20)})
	h := newHandler(b, w, &httpcache.Options{Keys: []*signing.SecretKey{newKey(b, "k-1")}})
	server := httptest.NewServer(h)
	defer server.Close()
	for name, url := range map[string]string{"narinfo": w.urls()["narinfo"], "NAR": narURL(big)} {
		b.Run(name, func(b *testing.B) {
			c, err := net.Dial("tcp", server.Listener.Addr().String())
			require.NoError(b, err)
			defer func() { _ = c.Close() }()
			br := bufio.NewReaderSize(c, 256<<10)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: cache\r\n\r\n", url)
				r, err := http.ReadResponse(br, nil)
				require.NoError(b, err)
				n, err := io.Copy(io.Discard, r.Body)
				require.NoError(b, err)
				b.SetBytes(n)
			}
		})
	}
}
