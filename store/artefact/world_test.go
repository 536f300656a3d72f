package artefact_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/artefact"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// text is n bytes that compress to about a third, the same for the same seed.
func text(seed uint64, n int) string {
	random := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, 0, n+16)
	for len(b) < n {
		word := random.Uint64N(1 << 13)
		for range 2 + word%5 {
			b = append(b, byte('a'+word%23))
			word = word*31 + 7
		}
		if random.IntN(4) == 0 {
			b = append(b, byte(random.Uint32()), byte(random.Uint32()))
		}
	}
	return string(b[:n])
}

// noise is n bytes that do not compress.
func noise(seed uint64, n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
	return string(b)
}

func open(t testing.TB, dir string, opts *artefact.Options) *artefact.Cache {
	t.Helper()
	c, err := artefact.Open(dir, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// fetch reads a whole artefact as a careful client does.
func fetch(ctx context.Context, c *artefact.Cache, s store.Store, info *narinfo.Info) ([]byte, error) {
	f, err := c.Open(ctx, s, info)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err == nil && f.Check != nil {
		err = f.Check()
	}
	return b, err
}

func mustFetch(t testing.TB, c *artefact.Cache, s store.Store, info *narinfo.Info) []byte {
	t.Helper()
	b, err := fetch(t.Context(), c, s, info)
	require.NoError(t, err)
	return b
}

func decode(t testing.TB, b []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	require.NoError(t, err)
	defer d.Close()
	out, err := d.DecodeAll(b, nil)
	require.NoError(t, err)
	return out
}

func narOf(t testing.TB, s store.Store, info *narinfo.Info) []byte {
	t.Helper()
	r, err := s.Open(context.Background(), info)
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return b
}

// requireIs demands that compressed bytes decode to the path's NAR.
func requireIs(t testing.TB, s store.Store, info *narinfo.Info, compressed []byte) {
	t.Helper()
	require.True(t, bytes.Equal(narOf(t, s, info), decode(t, compressed)), "it decodes to the NAR")
}

// settle waits until no job runs: what is being published is there then.
func settle(t testing.TB, c *artefact.Cache) {
	t.Helper()
	require.Eventually(t, func() bool { return c.Stats().Running == 0 }, 20*time.Second, time.Millisecond)
}

// folder lists a cache's files without its lock, and their bytes.
func folder(t testing.TB, dir string) (names []string, size int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		if e.Name() == "lock" {
			continue
		}
		if info, err := e.Info(); err == nil { // else it went meanwhile
			names = append(names, e.Name())
			size += info.Size()
		}
	}
	return names, size
}

func artefactFile(t testing.TB, dir string, info *narinfo.Info) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, info.NarHash.Base32()+"-*.zst"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

// gated is a store whose archives wait at an offset until the gate is opened.
type gated struct {
	store.Store
	at   int64
	gate chan struct{} // closed to open it
	once sync.Once

	opened atomic.Int64 // archives
}

func gate(s store.Store, at int64) *gated { return &gated{Store: s, at: at, gate: make(chan struct{})} }

func (g *gated) open() { g.once.Do(func() { close(g.gate) }) }

func (g *gated) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	g.opened.Add(1)
	r, err := g.Store.Open(ctx, info)
	if err != nil {
		return nil, err
	}
	return &gatedReader{ReadCloser: r, g: g, ctx: ctx, left: g.at}, nil
}

type gatedReader struct {
	io.ReadCloser
	g    *gated
	ctx  context.Context
	left int64
}

func (r *gatedReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		select {
		case <-r.g.gate:
			return r.ReadCloser.Read(p)
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
	n, err := r.ReadCloser.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, err
}

// add adds a path with one file to m.
func add(m *storetest.Memory, name, content string) *narinfo.Info {
	return m.Add(name, storetest.Files{"": strings.Clone(content)})
}
