package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/bench/internal/program"
	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

func TestMisuse(t *testing.T) {
	for name, args := range map[string][]string{
		"no URL":   {},
		"two URLs": {"http://a", "http://b"},
		"no path":  {"--path", "/etc/passwd", "http://a"},
		"no key":   {"--public-key", "x", "http://a"},
		"no flag":  {"--nope", "http://a"},
	} {
		var misuse program.UsageError
		require.ErrorAs(t, run(t.Context(), args, io.Discard, io.Discard), &misuse, name)
	}
	require.ErrorIs(t, run(t.Context(), []string{"--help"}, io.Discard, io.Discard), flag.ErrHelp)
}

func TestTableAndStatus(t *testing.T) {
	m := &storetest.Memory{}
	path := m.Add("x", storetest.Files{"a": "content"}).StorePath
	h, err := httpcache.New(m, nil)
	require.NoError(t, err)
	server := httptest.NewServer(h)
	defer server.Close()
	args := []string{"--slowly", "20ms", "--path", string(path)}
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), append(args, server.URL), &out, io.Discard), "%s", out.String())
	require.Contains(t, out.String(), "pass    nix-cache-info names")
	require.Contains(t, out.String(), " 0 failed")

	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/nix-cache-info" {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	}))
	defer broken.Close()
	out.Reset()
	err = run(t.Context(), append(args, broken.URL), &out, io.Discard)
	require.ErrorContains(t, err, "checks failed")
	require.False(t, errors.As(err, new(program.UsageError)))
	require.Contains(t, out.String(), "FAIL    nix-cache-info names")
}
