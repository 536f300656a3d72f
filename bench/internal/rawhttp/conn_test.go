package rawhttp_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/bench/internal/rawhttp"
)

// serve answers the requests of each connection with the texts in turn, byte by byte if slow, then closes it.
func serve(t *testing.T, slow bool, answers ...string) *rawhttp.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(conn, slow, answers)
		}
	}()
	c := rawhttp.New(l.Addr().String(), "cache")
	t.Cleanup(func() { c.Close() })
	return c
}

func answer(conn net.Conn, slow bool, answers []string) {
	defer conn.Close()
	requests := bufio.NewReader(conn)
	for _, a := range answers {
		if _, err := http.ReadRequest(requests); err != nil {
			return
		}
		var text io.Reader = strings.NewReader(a)
		if slow {
			text = iotest.OneByteReader(text)
		}
		_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{text})
	}
}

var bodies = []struct{ name, answer, body string }{
	{"length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"},
	{"length, other case", "HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello", "hello"},
	{"empty", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""},
	{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", "hello"},
	{"chunks with trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n", "hello"},
	{"no chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ""},
	{"interim answer", "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"},
	{"no reason", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", "hello"},
	{"no field at all", "HTTP/1.1 304 Not Modified\r\n\r\n", ""},
}

func TestBodiesOnOneConnection(t *testing.T) {
	for _, slow := range []bool{false, true} {
		var answers []string
		for _, b := range bodies {
			answers = append(answers, b.answer, b.answer, b.answer)
		}
		c := serve(t, slow, answers...)
		for _, b := range bodies {
			_, err := c.Get(t.Context(), "/")
			require.NoError(t, err, b.name)
			text, err := io.ReadAll(c)
			require.NoError(t, err, b.name)
			require.Equal(t, b.body, string(text), b.name)

			_, err = c.Get(t.Context(), "/")
			require.NoError(t, err, b.name)
			n, err := c.Discard()
			require.NoError(t, err, b.name)
			require.EqualValues(t, len(b.body), n, b.name)

			_, err = c.Get(t.Context(), "/") // nobody reads this one: the next Get does
			require.NoError(t, err, b.name)
		}
	}
}

func TestHeader(t *testing.T) {
	c := serve(t, false, "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nETag: \"x\"\r\n\r\nnot found")
	r, err := c.Get(t.Context(), "/")
	require.NoError(t, err)
	require.Equal(t, 404, r.Status)
	require.EqualValues(t, 9, r.Length)
	require.Equal(t, `"x"`, r.Field("etag"))
	require.Empty(t, r.Field("etags"))
}

func TestHeadHasNoBody(t *testing.T) {
	c := serve(t, false, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
	r, err := c.Head(t.Context(), "/")
	require.NoError(t, err)
	require.EqualValues(t, 5, r.Length)
	_, err = c.Get(t.Context(), "/")
	require.NoError(t, err)
	text, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "hi", string(text))
}

func TestClosedConnectionIsDialledAgain(t *testing.T) {
	for name, a := range map[string]string{
		"says so":        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.0":       "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"ends with body": "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
	} {
		c := serve(t, false, a)
		for range 3 {
			_, err := c.Get(t.Context(), "/")
			require.NoError(t, err, name)
			n, err := c.Discard()
			require.NoError(t, err, name)
			require.EqualValues(t, 5, n, name)
		}
	}
}

func TestCutAndMalformedAnswersAreErrors(t *testing.T) {
	for name, a := range map[string]string{
		"nothing":               "",
		"cut header":            "HTTP/1.1 200 OK\r\nContent-Le",
		"cut body":              "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
		"cut chunk":             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
		"cut before last chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"cut in last chunk":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
		"long chunk":            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!!\r\n0\r\n\r\n",
		"no number":             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\nhello\r\n0\r\n\r\n",
		"other protocol":        "HTTP/2.0 200 OK\r\n\r\n",
		"negative length":       "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
		"two lengths":           "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
		"other encoding":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
		"no colon":              "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
		"status":                "HTTP/1.1 2x0 OK\r\n\r\n",
		"header without end":    "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", rawhttp.BufferSize) + "\r\n\r\n",
	} {
		for how, drain := range map[string]func(c *rawhttp.Conn) error{
			"Discard": func(c *rawhttp.Conn) error { _, err := c.Discard(); return err },
			"Read":    func(c *rawhttp.Conn) error { _, err := io.ReadAll(c); return err },
		} {
			c := serve(t, false, a)
			_, err := c.Get(t.Context(), "/")
			if err == nil {
				err = drain(c)
			}
			require.Error(t, err, "%s, %s", name, how)
			require.NotErrorIs(t, err, io.EOF, "%s, %s", name, how)
		}
	}
}

func BenchmarkDiscard(b *testing.B) {
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 1<<20))
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	c := rawhttp.New(l.Addr().String(), "cache")
	defer c.Close()
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		_, err := c.Get(b.Context(), "/")
		require.NoError(b, err)
		_, err = c.Discard()
		require.NoError(b, err)
	}
}
