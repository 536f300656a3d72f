package contest_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/bench/internal/contest"
	"github.com/voidnxlab/nixtrap/bench/internal/target"
	"github.com/voidnxlab/nixtrap/bench/internal/workload"
	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// cache is our handler over a store in memory, and what it holds.
func cache(t *testing.T) (http.Handler, []workload.Path) {
	t.Helper()
	m := &storetest.Memory{}
	lib := m.Add("lib", storetest.Files{"": strings.Repeat("0123456789", 10_000)})
	m.Add("app", storetest.Files{"bin/app": "#!/bin/sh\n", "doc": "text"}, lib.StorePath)
	h, err := httpcache.New(m, nil)
	require.NoError(t, err)
	var paths []workload.Path
	for _, e := range m.Entries() {
		paths = append(paths, workload.Path{
			Path: string(e.Info.StorePath), NarHash: e.Info.NarHash.String(), NarSize: e.Info.NarSize,
		})
	}
	return h, paths
}

func serve(t *testing.T, name string, h http.Handler) *target.Server {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	s, err := target.Start(t.Context(), target.Program{Name: name, URL: server.URL})
	require.NoError(t, err)
	return s
}

var passes = []contest.Pass{
	{Kind: contest.Narinfo, Connections: 1, Repeat: 3},
	{Kind: contest.Absent, Connections: 1, Repeat: 1},
	{Kind: contest.NAR, Connections: 1, Repeat: 1},
	{Kind: contest.NAR, Connections: 4, Repeat: 2},
}

func TestContest(t *testing.T) {
	h, paths := cache(t)
	std := contest.NewClient(serve(t, "two", h), paths)
	std.Std = true
	board, err := contest.Run(t.Context(), 3, passes, []contest.Contender{
		contest.NewClient(serve(t, "one", h), paths),
		std,
		&contest.Command{Kind: contest.NAR, Label: "command", Args: []string{"true"}, Logical: 7},
	}, nil)
	require.NoError(t, err)
	require.Len(t, board, 9, "the command takes part in one pass")
	for _, s := range board {
		require.Len(t, s.Samples, 3, "%s, %s", s.Pass, s.Contender)
	}
	size := paths[0].NarSize + paths[1].NarSize
	for _, name := range []string{"one", "two"} {
		for _, sample := range board.Find(passes[3], name).Samples {
			require.Equal(t, 2*size, sample.Logical)
			require.Equal(t, 2*size, sample.Wire)
			require.Equal(t, 4, sample.Requests)
			require.Positive(t, sample.Time)
		}
	}
	require.EqualValues(t, 7, board.Find(passes[2], "command").Samples[0].Logical)
	require.Nil(t, board.Find(passes[0], "command"))
	require.Zero(t, board.Find(passes[0], "one").Samples[0].Logical)
	require.Equal(t, 6, board.Find(passes[0], "one").Samples[0].Requests)
}

// change hands requests whose URL contains a word to another handler.
func change(h http.Handler, word string, other func(w http.ResponseWriter, r *http.Request, body []byte)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, word) {
			h.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, r)
		other(w, r, answer.Body.Bytes())
	})
}

func TestWrongServersDoNotTakePart(t *testing.T) {
	h, paths := cache(t)
	for _, test := range []struct {
		name, word, want string
		change           func(w http.ResponseWriter, r *http.Request, body []byte)
	}{
		{"wrong byte", "/nar/", "the store says", func(w http.ResponseWriter, _ *http.Request, body []byte) {
			body[len(body)/2] ^= 1
			_, _ = w.Write(body)
		}},
		{"short", "/nar/", "the store says", func(w http.ResponseWriter, _ *http.Request, body []byte) {
			_, _ = w.Write(body[:len(body)-8])
		}},
		{"cut", "/nar/", "unexpected EOF", func(w http.ResponseWriter, _ *http.Request, body []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)+8))
			_, _ = w.Write(body)
		}},
		{"no NAR", "/nar/", "status 404", func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(404) }},
		{"encoded", "/nar/", "encoding", func(w http.ResponseWriter, _ *http.Request, body []byte) {
			w.Header().Set("Content-Encoding", "zstd")
			_, _ = w.Write(body)
		}},
		{"no narinfo", ".narinfo", "narinfo", func(w http.ResponseWriter, _ *http.Request, _ []byte) { _, _ = w.Write(nil) }},
		{"lying narinfo", ".narinfo", "the store says", func(w http.ResponseWriter, _ *http.Request, body []byte) {
			if info, err := narinfo.Parse(body); err == nil {
				info.NarSize++
				body, _ = info.MarshalText()
			}
			_, _ = w.Write(body)
		}},
		{"other compression", ".narinfo", `"br"`, func(w http.ResponseWriter, _ *http.Request, body []byte) {
			if info, err := narinfo.Parse(body); err == nil {
				info.Compression, info.FileHash, info.FileSize = "br", narinfo.Hash{}, 0
				body, _ = info.MarshalText()
			}
			_, _ = w.Write(body)
		}},
	} {
		c := contest.NewClient(serve(t, test.name, change(h, test.word, test.change)), paths)
		require.ErrorContains(t, c.Prepare(t.Context()), test.want, test.name)
	}
}

func TestAbsentNarinfosAreAbsent(t *testing.T) {
	h, paths := cache(t)
	known := map[string]bool{}
	for _, p := range paths {
		known["/"+p.HashPart()+".narinfo"] = true
	}
	c := contest.NewClient(serve(t, "finds everything", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".narinfo") && !known[r.URL.Path] {
			return
		}
		h.ServeHTTP(w, r)
	})), paths)
	require.ErrorContains(t, c.Prepare(t.Context()), "status 200, not 404")
}

func TestCompressedArchivesAreDecoded(t *testing.T) {
	h, paths := cache(t)
	zipped := change(h, ".narinfo", func(w http.ResponseWriter, _ *http.Request, body []byte) {
		info, err := narinfo.Parse(body)
		if err != nil {
			w.WriteHeader(404)
			return
		}
		info.Compression, info.FileHash, info.FileSize = "zstd", narinfo.Hash{}, 0
		body, _ = info.MarshalText()
		_, _ = w.Write(body)
	})
	encoder, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	c := contest.NewClient(serve(t, "zstd", change(zipped, "/nar/", func(w http.ResponseWriter, _ *http.Request, body []byte) {
		half := len(body) / 2
		_, _ = w.Write(encoder.EncodeAll(body[half:], encoder.EncodeAll(body[:half], nil))) // two frames
	})), paths)
	require.NoError(t, c.Prepare(t.Context()))
	s, err := c.Measure(t.Context(), passes[2])
	require.NoError(t, err)
	require.Equal(t, paths[0].NarSize+paths[1].NarSize, s.Logical)
	require.Less(t, s.Wire, s.Logical)
}

func TestAnswersThatChangeAreErrors(t *testing.T) {
	h, paths := cache(t)
	var broken bool
	c := contest.NewClient(serve(t, "x", change(h, "/nar/", func(w http.ResponseWriter, _ *http.Request, body []byte) {
		if broken {
			body = body[:len(body)-8]
		}
		_, _ = w.Write(body)
	})), paths)
	require.NoError(t, c.Prepare(t.Context()))
	broken = true
	_, err := c.Measure(t.Context(), passes[2])
	require.ErrorContains(t, err, "bytes, not")
}

func TestCommandFails(t *testing.T) {
	c := &contest.Command{Label: "x", Args: []string{"sh", "-c", "echo why >&2; exit 1"}}
	require.ErrorContains(t, c.Prepare(t.Context()), "why")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.Error(t, (&contest.Command{Args: []string{"sleep", "60"}}).Prepare(ctx))
}
