package pullthrough_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/pullthrough"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// remote keeps archives compressed, and lets a test see and steer how they are read.
type remote struct {
	*storetest.Memory

	mu     sync.Mutex // guards what follows
	files  map[string][]byte
	opened int
	read   func(ctx context.Context, r io.Reader) io.Reader // nil: as it is
}

func sha(b []byte) narinfo.Hash {
	digest := sha256.Sum256(b)
	h, err := narinfo.NewHash(narinfo.SHA256, digest[:])
	if err != nil {
		panic(err)
	}
	return h
}

// noise compresses to about a half.
func noise(n int) string {
	rng := rand.New(rand.NewPCG(1, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32() & 15)
	}
	return string(b)
}

func newRemote(t testing.TB) *remote {
	t.Helper()
	r := &remote{Memory: &storetest.Memory{}, files: map[string][]byte{}}
	lib := r.Memory.Add("lib", storetest.Files{"lib": noise(300_000)})
	r.Memory.Add("tool", storetest.Files{"bin/tool": "#!/bin/sh\n"}, lib.StorePath)
	enc, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	for _, e := range r.Entries() {
		file := enc.EncodeAll(e.NAR, nil)
		e.Info.URL, e.Info.Compression = "nar/"+e.Info.StorePath.Name()+".nar.zst", "zstd"
		e.Info.FileHash, e.Info.FileSize = sha(file), int64(len(file))
		r.files[e.Info.URL] = file
		r.AddInfo(e.Info, e.NAR)
	}
	return r
}

// OpenArchive implements [store.ArchiveOpener].
func (r *remote) OpenArchive(ctx context.Context, info *narinfo.Info) (*store.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	file, ok := r.files[info.URL]
	if now, err := r.Info(ctx, info.StorePath.HashPart()); err != nil || !ok || now.StorePath != info.StorePath {
		return nil, errors.Join(err, store.ErrNotFound)
	}
	r.opened++
	f := &store.File{ReadSeekCloser: plainFile{Reader: bytes.NewReader(file)}, Size: int64(len(file)), Hash: sha(file)}
	if r.read != nil {
		f.ReadSeekCloser = steered{r.read(ctx, bytes.NewReader(file))}
	}
	return f, nil
}

func (r *remote) opens() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opened
}

type plainFile struct{ *bytes.Reader }

func (plainFile) Close() error { return nil }

// steered cannot be sought in.
type steered struct{ io.Reader }

func (steered) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }
func (steered) Close() error                   { return nil }

// gate lets bytes through as far as it was opened.
type gate struct {
	mu      sync.Mutex
	changed chan struct{}
	at      int64
	err     error // at the gate
}

func newGate(at int64) *gate { return &gate{changed: make(chan struct{}), at: at} }

// open lets through everything before at, and then err, if it isn't nil.
func (g *gate) open(at int64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.at, g.err = at, err
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *gate) reader(ctx context.Context, r io.Reader) io.Reader {
	return &gated{ctx: ctx, gate: g, r: r}
}

type gated struct {
	ctx  context.Context
	gate *gate
	r    io.Reader
	pos  int64
}

func (g *gated) Read(p []byte) (int, error) {
	for {
		g.gate.mu.Lock()
		at, err, changed := g.gate.at, g.gate.err, g.gate.changed
		g.gate.mu.Unlock()
		if g.pos < at {
			n, err := g.r.Read(p[:min(int64(len(p)), at-g.pos)])
			g.pos += int64(n)
			return n, err
		}
		if err != nil {
			return 0, err
		}
		select {
		case <-changed:
		case <-g.ctx.Done():
			return 0, g.ctx.Err()
		}
	}
}

// box is a receiver that keeps what it gets.
type box struct {
	mu     sync.Mutex // guards stored and failed
	stored map[narinfo.StorePath][]byte
	failed []error
	hold   chan struct{} // if not nil, nothing is read before it is closed
	refuse error         // if not nil, after the first bytes
}

// Receive implements [pullthrough.Receiver].
func (b *box) Receive(ctx context.Context, info *narinfo.Info, archive io.Reader) error {
	if b.hold != nil {
		select {
		case <-b.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if b.refuse != nil {
		_, _ = archive.Read(make([]byte, 10))
		return b.refuse
	}
	data, err := io.ReadAll(archive)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.failed = append(b.failed, err)
		return err
	}
	if b.stored == nil {
		b.stored = map[narinfo.StorePath][]byte{}
	}
	b.stored[info.StorePath] = data
	return nil
}

func (b *box) has(path narinfo.StorePath) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stored[path]
}

func pull(t testing.TB, r *remote, b *box, o *pullthrough.Options) *pullthrough.Store {
	t.Helper()
	if o == nil {
		o = &pullthrough.Options{}
	}
	o.TempDir = t.TempDir()
	s, err := pullthrough.New(r, b, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		left, err := os.ReadDir(o.TempDir)
		require.NoError(t, err)
		require.Empty(t, left)
	})
	return s
}

// lib returns the larger path and its archive.
func (r *remote) lib(t testing.TB) (*narinfo.Info, []byte) {
	t.Helper()
	for _, e := range r.Entries() {
		if e.Info.StorePath.Name() == "lib" {
			return e.Info, r.files[e.Info.URL]
		}
	}
	t.Fatal("no lib")
	return nil, nil
}

func TestConformance(t *testing.T) {
	storetest.Test(t, func(t *testing.T) storetest.Fixture {
		r := newRemote(t)
		return storetest.Fixture{Store: pull(t, r, &box{}, nil), Entries: r.Entries()}
	})
}

func TestClientAndReceiverGetTheSameBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b := newRemote(t), &box{}
		var stored int64
		s := pull(t, r, b, &pullthrough.Options{Trace: &pullthrough.Trace{
			Stored: func(_ narinfo.StorePath, size int64) { stored = size },
		}})
		info, want := r.lib(t)
		g := newGate(10)
		r.read = g.reader
		f, err := s.OpenArchive(t.Context(), info)
		require.NoError(t, err)
		require.Equal(t, int64(len(want)), f.Size)
		first := make([]byte, 100)
		n, err := f.Read(first)
		require.NoError(t, err)
		require.Equal(t, want[:10], first[:n], "the first bytes come before the rest is there")

		second, err := s.OpenArchive(t.Context(), info)
		require.NoError(t, err)
		g.open(1<<40, nil)
		rest, err := io.ReadAll(f)
		require.NoError(t, err)
		require.Equal(t, want[10:], rest)
		all, err := io.ReadAll(second)
		require.NoError(t, err)
		require.Equal(t, want, all)
		require.NoError(t, f.Close())
		require.NoError(t, second.Close())
		synctest.Wait()
		require.Equal(t, want, b.has(info.StorePath))
		require.EqualValues(t, len(want), stored)
		require.Equal(t, 1, r.opens())
	})
}

func TestLookingUpStoresNothing(t *testing.T) {
	r, b := newRemote(t), &box{}
	s := pull(t, r, b, nil)
	info, _ := r.lib(t)
	_, err := s.Info(t.Context(), info.StorePath.HashPart())
	require.NoError(t, err)
	ctx := store.LocalOnly(t.Context())
	_, err = s.Info(ctx, info.StorePath.HashPart())
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Open(ctx, info)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.OpenArchive(ctx, info)
	require.ErrorIs(t, err, store.ErrNotFound)
	require.Zero(t, r.opens())
}

func TestFailuresOfTheReceiverDoNotConcernClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b := newRemote(t), &box{refuse: errors.New("full")}
		var failed error
		s := pull(t, r, b, &pullthrough.Options{Trace: &pullthrough.Trace{
			Failed: func(_ narinfo.StorePath, err error) { failed = err },
		}})
		info, want := r.lib(t)
		g := newGate(10)
		r.read = g.reader
		f, err := s.OpenArchive(t.Context(), info)
		require.NoError(t, err)
		synctest.Wait()
		g.open(1<<40, nil)
		got, err := io.ReadAll(f)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.NoError(t, f.Close())
		synctest.Wait()
		require.EqualError(t, failed, "full")
	})
}

type content map[narinfo.StorePath]bool

// Receive implements [pullthrough.Receiver]. It reads nothing of what it has.
func (c content) Receive(_ context.Context, info *narinfo.Info, archive io.Reader) error {
	if c[info.StorePath] {
		return nil
	}
	_, err := io.Copy(io.Discard, archive)
	return err
}

// Each download that began is counted once more when it has ended, also if there was nothing to be done.
func TestEachDownloadHasOneEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRemote(t)
		var ends []string
		info, _ := r.lib(t)
		has := content{}
		s, err := pullthrough.New(r, has, &pullthrough.Options{Trace: &pullthrough.Trace{
			Stored:   func(narinfo.StorePath, int64) { ends = append(ends, "stored") },
			Unneeded: func(narinfo.StorePath) { ends = append(ends, "unneeded") },
			Failed:   func(narinfo.StorePath, error) { ends = append(ends, "failed") },
		}})
		require.NoError(t, err)
		for range 2 {
			f, err := s.OpenArchive(t.Context(), info)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, f)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			synctest.Wait()
			has[info.StorePath] = true
		}
		require.NoError(t, s.Close())
		require.Equal(t, []string{"stored", "unneeded"}, ends)
	})
}

// A slow client or receiver delays nobody else.
func TestEachReadsAtItsOwnPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b := newRemote(t), &box{hold: make(chan struct{})}
		s := pull(t, r, b, nil)
		info, want := r.lib(t)
		slow, err := s.OpenArchive(t.Context(), info)
		require.NoError(t, err)
		quick, err := s.OpenArchive(t.Context(), info)
		require.NoError(t, err)
		got, err := io.ReadAll(quick)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.NoError(t, quick.Close())
		close(b.hold)
		synctest.Wait()
		require.Equal(t, want, b.has(info.StorePath), "with the slow client still there")
		got, err = io.ReadAll(slow)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.NoError(t, slow.Close())
	})
}

func TestStoringGoesOnWithoutClientsForAWhile(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration
		kept  bool
	}{"in time": {4 * time.Minute, true}, "too late": {6 * time.Minute, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, b := newRemote(t), &box{}
				s := pull(t, r, b, &pullthrough.Options{Linger: 5 * time.Minute})
				info, want := r.lib(t)
				g := newGate(10)
				r.read = g.reader
				ctx, cancel := context.WithCancel(t.Context())
				f, err := s.OpenArchive(ctx, info)
				require.NoError(t, err)
				cancel()
				_, err = io.ReadAll(f)
				require.ErrorIs(t, err, context.Canceled)
				require.NoError(t, f.Close())
				time.Sleep(c.after)
				g.open(1<<40, nil)
				synctest.Wait()
				require.Equal(t, c.kept, bytes.Equal(want, b.has(info.StorePath)))
				require.Equal(t, !c.kept, len(b.failed) > 0)

				// Who comes now gets all, from a new job where the first was given up.
				f, err = s.OpenArchive(t.Context(), info)
				require.NoError(t, err)
				got, err := io.ReadAll(f)
				require.NoError(t, err)
				require.Equal(t, want, got)
				require.NoError(t, f.Close())
			})
		})
	}
}

func TestAFailingRemoteFailsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b := newRemote(t), &box{}
		s := pull(t, r, b, nil)
		info, want := r.lib(t)
		g := newGate(10)
		r.read = g.reader
		f, err := s.OpenArchive(t.Context(), info)
		require.NoError(t, err)
		g.open(20, store.ErrCorrupt)
		got, err := io.ReadAll(f)
		require.ErrorIs(t, err, store.ErrCorrupt)
		require.Equal(t, want[:20], got)
		require.NoError(t, f.Close())
		synctest.Wait()
		require.Nil(t, b.has(info.StorePath))
		require.Len(t, b.failed, 1)
		require.ErrorIs(t, b.failed[0], store.ErrCorrupt)

		delete(r.files, info.URL)
		_, err = s.OpenArchive(t.Context(), info)
		require.ErrorIs(t, err, store.ErrNotFound)
	})
}

// A part is given when the whole is proved.
func TestPartsWaitForTheProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b := newRemote(t), &box{}
		s := pull(t, r, b, nil)
		info, want := r.lib(t)
		g := newGate(50)
		r.read = g.reader
		f, err := s.OpenArchive(t.Context(), info)
		require.NoError(t, err)
		_, err = f.Seek(20, io.SeekStart)
		require.NoError(t, err)
		read := make(chan []byte)
		go func() {
			p := make([]byte, 5)
			_, _ = io.ReadFull(f, p)
			read <- p
		}()
		synctest.Wait()
		select {
		case <-read:
			t.Error("a part came before the proof")
		default:
		}
		g.open(1<<40, nil)
		require.Equal(t, want[20:25], <-read)
		end, err := f.Seek(-3, io.SeekEnd)
		require.NoError(t, err)
		require.EqualValues(t, len(want)-3, end)
		rest, err := io.ReadAll(f)
		require.NoError(t, err)
		require.Equal(t, want[len(want)-3:], rest)
		require.NoError(t, f.Close())
	})
}

func TestWithoutRoomNothingIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b := newRemote(t), &box{}
		info, want := r.lib(t)
		direct := 0
		s := pull(t, r, b, &pullthrough.Options{Spool: info.FileSize + 5, Trace: &pullthrough.Trace{
			Direct: func(narinfo.StorePath) { direct++ },
		}})
		f, err := s.OpenArchive(t.Context(), info)
		require.NoError(t, err)
		for _, e := range r.Entries() {
			if e.Info.StorePath == info.StorePath {
				continue
			}
			got, err := s.OpenArchive(t.Context(), e.Info)
			require.NoError(t, err)
			data, err := io.ReadAll(got)
			require.NoError(t, err)
			require.Equal(t, r.files[e.Info.URL], data)
			synctest.Wait()
			require.Nil(t, b.has(e.Info.StorePath))
		}
		require.Equal(t, 1, direct)
		got, err := io.ReadAll(f)
		require.NoError(t, err)
		require.Equal(t, want, got)
		require.NoError(t, f.Close())
		synctest.Wait()
		for _, e := range r.Entries() {
			f, err := s.OpenArchive(t.Context(), e.Info)
			require.NoError(t, err)
			_, err = io.Copy(io.Discard, f)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			synctest.Wait()
			require.NotNil(t, b.has(e.Info.StorePath), "there is room again")
		}
	})
}

// Where the disk fails, clients get the archive all the same.
func TestADiskThatFails(t *testing.T) {
	r, b := newRemote(t), &box{}
	s, err := pullthrough.New(r, b, &pullthrough.Options{TempDir: "/nowhere/at/all"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	info, want := r.lib(t)
	f, err := s.OpenArchive(t.Context(), info)
	require.NoError(t, err)
	got, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Nil(t, b.has(info.StorePath))
}

// A disk that fills up on the way fails the receiver alone; clients go on where they were.
func TestADiskThatFillsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, seek := range []int64{0, 5} {
			r, b := newRemote(t), &box{}
			o := &pullthrough.Options{}
			o.FullAfter(1000)
			s := pull(t, r, b, o)
			info, want := r.lib(t)
			g := newGate(900)
			r.read = g.reader
			f, err := s.OpenArchive(t.Context(), info)
			require.NoError(t, err)
			first := make([]byte, 900)
			_, err = io.ReadFull(f, first)
			require.NoError(t, err)
			require.Equal(t, want[:900], first)
			pos := int64(900)
			if seek != 0 {
				pos, err = f.Seek(seek, io.SeekStart)
				require.NoError(t, err)
			}
			r.mu.Lock()
			r.read = nil
			r.mu.Unlock()
			g.open(1<<40, nil)
			got, err := io.ReadAll(f)
			require.NoError(t, err)
			require.Equal(t, want[pos:], got)
			require.NoError(t, f.Close())
			synctest.Wait()
			require.Len(t, b.failed, 1)
			require.ErrorIs(t, b.failed[0], syscall.ENOSPC)
			require.Nil(t, b.has(info.StorePath))
			require.Equal(t, 2, r.opens())
		}
	})
}

// Whatever happens around it, a client or a receiver that sees the end has seen the archive.
func TestNoWrongEndUnderStress(t *testing.T) {
	r := newRemote(t)
	info, want := r.lib(t)
	var seed atomic.Uint64
	r.read = func(_ context.Context, src io.Reader) io.Reader {
		rng := rand.New(rand.NewPCG(seed.Add(1), 1))
		if rng.IntN(3) == 0 {
			return io.MultiReader(io.LimitReader(src, rng.Int64N(info.FileSize)), iotest.ErrReader(store.ErrCorrupt))
		}
		return iotest.HalfReader(src)
	}
	b := &box{}
	s := pull(t, r, b, &pullthrough.Options{Linger: -1, Spool: 2 * info.FileSize})
	var wg sync.WaitGroup
	var whole atomic.Int32
	for n := range 16 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 2))
			for range 30 {
				f, err := s.OpenArchive(t.Context(), info)
				if err != nil {
					if !errors.Is(err, store.ErrCorrupt) {
						t.Errorf("open: %v", err)
					}
					continue
				}
				if rng.IntN(3) == 0 {
					_, _ = io.CopyN(io.Discard, f, rng.Int64N(info.FileSize))
				} else if got, err := io.ReadAll(f); err == nil {
					whole.Add(1)
					if !bytes.Equal(want, got) {
						t.Error("a wrong end")
					}
				} else if !errors.Is(err, store.ErrCorrupt) || !bytes.HasPrefix(want, got) {
					t.Errorf("after %d bytes: %v", len(got), err)
				}
				_ = f.Close()
			}
		})
	}
	wg.Wait()
	require.NotZero(t, whole.Load())
	require.NoError(t, s.Close())
	if got := b.has(info.StorePath); got != nil {
		require.True(t, bytes.Equal(want, got))
	}
}

func TestCloseEndsDownloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, b := newRemote(t), &box{}
		s := pull(t, r, b, nil)
		info, _ := r.lib(t)
		g := newGate(10)
		r.read = g.reader
		f, err := s.OpenArchive(t.Context(), info)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		_, err = io.ReadAll(f)
		require.ErrorContains(t, err, "the store is closed")
		require.NoError(t, f.Close())
		_, err = s.OpenArchive(t.Context(), info)
		require.ErrorContains(t, err, "the store is closed")
	})
}
