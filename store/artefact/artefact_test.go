package artefact_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/artefact"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

func TestAHundredFirstRequestsCompressOnce(t *testing.T) {
	var m storetest.Memory
	for name, size := range map[string]int{"small": 1000, "large": 6 << 20} {
		info := add(&m, name, text(1, size))
		var made atomic.Int64
		c := open(t, t.TempDir(), &artefact.Options{Trace: &artefact.Trace{
			Made: func(narinfo.StorePath, int64, int64, time.Duration) { made.Add(1) }}})
		results := make([][32]byte, 100)
		var clients sync.WaitGroup
		for i := range results {
			clients.Go(func() {
				if b, err := fetch(t.Context(), c, &m, info); err == nil {
					results[i] = sha256.Sum256(b)
				}
			})
		}
		clients.Wait()
		last := mustFetch(t, c, &m, info)
		requireIs(t, &m, info, last)
		for i, sum := range results {
			require.Equal(t, sha256.Sum256(last), sum, "%s: client %d", name, i)
		}
		settle(t, c) // readers may be done before the job tells
		require.Equal(t, int64(1), made.Load(), name)
	}
}

func TestAGrowingFileIsReadWhileItGrows(t *testing.T) {
	var m storetest.Memory
	info := add(&m, "large", text(2, 20<<20))
	g := gate(&m, 1<<20)
	c := open(t, t.TempDir(), nil)
	f, err := c.Open(t.Context(), g, info)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, int64(-1), f.Size)
	require.True(t, f.Hash.IsZero())
	head := make([]byte, 50_000)
	_, err = io.ReadFull(f, head)
	require.NoError(t, err, "the first frame is there while the rest is not")

	second, err := c.Open(t.Context(), g, info)
	require.NoError(t, err)
	defer second.Close()
	require.Equal(t, int64(1), c.Stats().Joined)
	_, err = second.Seek(10_000, io.SeekStart)
	require.NoError(t, err)
	part := make([]byte, 20_000)
	_, err = io.ReadFull(second, part)
	require.NoError(t, err)
	require.True(t, bytes.Equal(head[10_000:30_000], part))

	end := make(chan int64, 1)
	go func() {
		size, _ := second.Seek(0, io.SeekEnd)
		end <- size
	}()
	select {
	case <-end:
		require.Fail(t, "the end was told before it was there")
	case <-time.After(20 * time.Millisecond):
	}
	g.open()
	rest, err := io.ReadAll(f)
	require.NoError(t, err)
	all := append(head, rest...)
	requireIs(t, &m, info, all)
	require.Equal(t, int64(len(all)), <-end)
	settle(t, c)
	require.Equal(t, all, mustFetch(t, c, &m, info), "the finished artefact has the same bytes")
}

func TestAJobGoesOnWithoutItsClients(t *testing.T) {
	var m storetest.Memory
	info := add(&m, "large", text(3, 20<<20))
	g := gate(&m, 1<<20)
	c := open(t, t.TempDir(), nil)
	f, err := c.Open(t.Context(), g, info)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, f.Close(), "a second Close does nothing")
	g.open()
	settle(t, c)
	require.Equal(t, 1, c.Stats().Artefacts)
}

func TestAJobThatHasNotBegunEndsWithItsLastClient(t *testing.T) {
	var m storetest.Memory
	g := gate(&m, 0)
	c := open(t, t.TempDir(), &artefact.Options{Encoders: 1})
	ctx, leave := context.WithCancel(t.Context())
	const jobs = 10
	var clients sync.WaitGroup
	for i := range jobs {
		info := add(&m, fmt.Sprint("path", i), text(uint64(i), 1000))
		clients.Go(func() { _, _ = c.Open(ctx, g, info) })
	}
	const slots = 3 // of one encoder
	require.Eventually(t, func() bool { return c.Stats().Running == jobs && g.opened.Load() == slots },
		10*time.Second, time.Millisecond)
	leave()
	clients.Wait()
	require.Equal(t, slots, c.Stats().Running, "those that had begun go on")
	g.open()
	settle(t, c)
	require.Equal(t, slots, c.Stats().Artefacts)
	require.Equal(t, int64(slots), g.opened.Load())
}

func TestASourceThatFailsLeavesNothing(t *testing.T) {
	var m storetest.Memory
	large, small := add(&m, "large", text(4, 5<<20)), add(&m, "small", text(4, 1000))
	errDisk := errors.New("disk on fire")
	for name, tt := range map[string]struct {
		info *narinfo.Info
		at   int64
		err  error
		want error
	}{
		"at once":                   {large, 0, errDisk, errDisk},
		"in the middle":             {large, 3 << 20, errDisk, errDisk},
		"ends early":                {large, 3 << 20, io.EOF, store.ErrCorrupt},
		"proof fails":               {large, large.NarSize - 1, store.ErrCorrupt, store.ErrCorrupt},
		"fails behind its end":      {large, large.NarSize, store.ErrCorrupt, store.ErrCorrupt},
		"wrapped end":               {large, large.NarSize, fmt.Errorf("x: %w", io.EOF), io.EOF},
		"small, proof fails":        {small, small.NarSize, store.ErrCorrupt, store.ErrCorrupt},
		"small, in the first bytes": {small, 5, errDisk, errDisk},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c := open(t, dir, nil)
			s := &storetest.Faults{Store: &m, Read: storetest.FailAt(tt.at, tt.err)}
			var clients sync.WaitGroup
			errs := make([]error, 20)
			for i := range errs {
				clients.Go(func() { _, errs[i] = fetch(t.Context(), c, s, tt.info) })
			}
			clients.Wait()
			for _, err := range errs {
				require.ErrorIs(t, err, tt.want)
			}
			settle(t, c)
			names, _ := folder(t, dir)
			require.Empty(t, names)
			require.Zero(t, c.Stats().Bytes)
			requireIs(t, &m, tt.info, mustFetch(t, c, &m, tt.info))
		})
	}
}

// longer is a store whose archives go on after their end.
type longer struct{ store.Store }

func (s longer) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	r, err := s.Store.Open(ctx, info)
	return io.NopCloser(io.MultiReader(r, bytes.NewReader(make([]byte, 1)))), err
}

func TestANARThatIsTooLongIsCorrupt(t *testing.T) {
	var m storetest.Memory
	info := add(&m, "path", "content")
	_, err := fetch(t.Context(), open(t, t.TempDir(), nil), longer{&m}, info)
	require.ErrorIs(t, err, store.ErrCorrupt)
	_, err = fetch(t.Context(), open(t, "", nil), longer{&m}, info)
	require.ErrorIs(t, err, store.ErrCorrupt)
}

func TestBytesAreTheSameWhateverTheCores(t *testing.T) {
	var m storetest.Memory
	var infos []*narinfo.Info
	for i, size := range []int{0, 100_000, 2 << 20, 3 << 20, 22 << 20} {
		infos = append(infos, add(&m, fmt.Sprint("path", i), text(uint64(i), size)))
	}
	caches := []*artefact.Cache{
		open(t, t.TempDir(), &artefact.Options{Encoders: 1}), open(t, t.TempDir(), &artefact.Options{Encoders: 4}),
		open(t, "", &artefact.Options{Encoders: 2}),
	}
	for _, info := range infos {
		want := mustFetch(t, caches[0], &m, info)
		requireIs(t, &m, info, want)
		for _, c := range caches[1:] {
			require.True(t, bytes.Equal(want, mustFetch(t, c, &m, info)), "%s", info.StorePath)
		}
	}
}

// TestEncoderIsGolden fails when the compressor's bytes change. Then the encoder needs another name, for clients hold
// parts of files, and narinfos, of the old one: bump encoderID, and put the new hashes here.
func TestEncoderIsGolden(t *testing.T) {
	var m storetest.Memory
	c := open(t, t.TempDir(), nil)
	require.Equal(t, "z2", c.Encoder())
	for size, want := range map[int]string{
		1000:     "afe4ebc3ed00365fd966c6c276136c97f566db40eff06f52c2cbf3f5d78c1bf0",
		5 << 20:  "9034db513ce31d424632b17c3c516f93e14f79f505ee18c9837f9e704414efa5",
		30 << 20: "cb5ba9ea10c02f878dda21431d9910642e5dad291cc8f5d20e8575fb71c79b23",
	} {
		b := mustFetch(t, c, &m, add(&m, "golden", text(99, size)))
		sum := sha256.Sum256(b)
		require.Equal(t, want, hex.EncodeToString(sum[:]), "archive of %d bytes", size)
	}
}

func TestFramesCoverTheNAR(t *testing.T) {
	for _, size := range []int64{1, 96, 1 << 20, 1<<20 + 1, 12 << 20, 13 << 20, 100 << 20, 4 << 30, 1 << 40} {
		var sizes []int64
		for offset := int64(0); offset < size; {
			n := artefact.FrameSize(size, offset)
			require.Positive(t, n)
			require.LessOrEqual(t, n, int64(8<<20))
			sizes = append(sizes, n)
			if offset += n; len(sizes) > 1000 && size > 1<<35 {
				break
			}
		}
		require.LessOrEqual(t, sizes[0], int64(1<<20), "the first frame of %d", size)
		if len(sizes) > 2 {
			require.GreaterOrEqual(t, sizes[len(sizes)-1], int64(4<<20), "the last frame of %d", size)
		}
	}
}

func TestDescribeSaysWhatIsKnown(t *testing.T) {
	var m storetest.Memory
	info := add(&m, "path", text(5, 5<<20))
	c := open(t, t.TempDir(), nil)
	d := info.Clone()
	d.FileHash, d.FileSize = d.NarHash, 5
	require.True(t, c.Describe(d))
	require.True(t, d.FileHash.IsZero())
	require.Zero(t, d.FileSize)
	b := mustFetch(t, c, &m, info)
	settle(t, c)
	require.True(t, c.Describe(d))
	require.Equal(t, int64(len(b)), d.FileSize)
	sum := sha256.Sum256(b)
	require.Equal(t, sum[:], d.FileHash.Digest())
	require.False(t, open(t, "", nil).Describe(d), "a cache that keeps nothing offers nothing")
}

func TestAFinishedArtefactIsAFile(t *testing.T) {
	var m storetest.Memory
	info := add(&m, "path", text(6, 3<<20))
	c := open(t, t.TempDir(), nil)
	b := mustFetch(t, c, &m, info)
	settle(t, c)
	f, err := c.Open(t.Context(), &m, info)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, int64(len(b)), f.Size)
	require.NotNil(t, f.Source)
	require.NoError(t, f.Check())
	_, err = f.Seek(1000, io.SeekStart)
	require.NoError(t, err)
	rest, err := io.ReadAll(f.Source)
	require.NoError(t, err)
	require.Equal(t, b[1000:], rest)
	require.NoError(t, f.Close())
	require.NoError(t, f.Close(), "a second Close does nothing")
}

func TestADamagedArtefactIsMadeAnew(t *testing.T) {
	var m storetest.Memory
	info := add(&m, "path", text(7, 300_000))
	for name, damage := range map[string]func(file string) error{
		"one bit": func(file string) error {
			b, err := os.ReadFile(file)
			b[len(b)/2] ^= 1
			return errors.Join(err, os.WriteFile(file, b, 0o600))
		},
		"truncated": func(file string) error { return os.Truncate(file, 1000) },
		"emptied":   func(file string) error { return os.Truncate(file, 0) },
		"deleted":   os.Remove,
		"longer": func(file string) error {
			b, err := os.ReadFile(file)
			return errors.Join(err, os.WriteFile(file, append(b, 0), 0o600))
		},
		"a symlink":  func(file string) error { return errors.Join(os.Remove(file), os.Symlink("/dev/zero", file)) },
		"a folder":   func(file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) },
		"other file": func(file string) error { return errors.Join(os.Remove(file), os.WriteFile(file, []byte("x"), 0o600)) },
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/restart=%t", name, restart), func(t *testing.T) {
				dir := t.TempDir()
				c := open(t, dir, nil)
				want := mustFetch(t, c, &m, info)
				settle(t, c)
				if restart {
					require.NoError(t, c.Close())
				}
				require.NoError(t, damage(artefactFile(t, dir, info)))
				if restart {
					c = open(t, dir, nil)
				}
				require.Equal(t, want, mustFetch(t, c, &m, info))
				settle(t, c)
				require.Equal(t, want, mustFetch(t, c, &m, info), "and again from the file")
				names, size := folder(t, dir)
				require.Len(t, names, 1)
				require.LessOrEqual(t, size, c.Stats().Bytes)
			})
		}
	}
}

func TestAnArtefactThatIsDamagedWhileItIsReadIsNotCompleted(t *testing.T) {
	var m storetest.Memory
	info := add(&m, "path", text(8, 3<<20))
	dir := t.TempDir()
	c := open(t, dir, nil)
	mustFetch(t, c, &m, info)
	settle(t, c)
	f, err := c.Open(t.Context(), &m, info)
	require.NoError(t, err)
	defer f.Close()
	w, err := os.OpenFile(artefactFile(t, dir, info), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = w.WriteAt([]byte{1, 2, 3}, 5000)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.ErrorIs(t, f.Check(), store.ErrCorrupt)
	requireIs(t, &m, info, mustFetch(t, c, &m, info))
	require.Equal(t, int64(1), c.Stats().Damaged)
}

func TestOneFolderOneCache(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, nil)
	_, err := artefact.Open(dir, nil)
	require.ErrorContains(t, err, "in use")
	require.NoError(t, c.Close())
	open(t, dir, nil)
}

func TestCloseStopsJobs(t *testing.T) {
	var m storetest.Memory
	info := add(&m, "path", text(9, 20<<20))
	dir := t.TempDir()
	c := open(t, dir, nil)
	f, err := c.Open(t.Context(), gate(&m, 1<<20), info)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, c.Close())
	_, err = io.ReadAll(f)
	require.Error(t, err, "it will never be whole")
	_, err = c.Open(t.Context(), &m, info)
	require.Error(t, err)
	names, _ := folder(t, dir)
	require.Empty(t, names)
}

func TestOpenTakesInWhatItFinds(t *testing.T) {
	var m storetest.Memory
	info := add(&m, "path", text(10, 3<<20))
	dir := t.TempDir()
	c := open(t, dir, nil)
	want := mustFetch(t, c, &m, info)
	settle(t, c)
	require.NoError(t, c.Close())
	name := filepath.Base(artefactFile(t, dir, info))
	hash := info.NarHash.Base32()
	for _, other := range []string{"tmp-123", hash + "-z0-" + hash + ".zst", "notes.txt", "a-b-c.zst"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, other), []byte("x"), 0o600))
	}
	c = open(t, dir, nil)
	require.Equal(t, want, mustFetch(t, c, storetest.Plain(&m), info))
	require.Zero(t, c.Stats().Made)
	require.Equal(t, int64(1), c.Stats().Hits)
	names, _ := folder(t, dir)
	require.ElementsMatch(t, []string{name, "notes.txt", "a-b-c.zst"}, names, "others' files are left alone")
}

func TestWithoutAFolderEachReaderHasItsOwn(t *testing.T) {
	var m storetest.Memory
	info := add(&m, "path", text(11, 20<<20))
	c := open(t, "", nil)
	for range 2 {
		f, err := c.Open(t.Context(), &m, info)
		require.NoError(t, err)
		require.Equal(t, int64(-1), f.Size)
		_, err = f.Seek(0, io.SeekCurrent)
		require.ErrorIs(t, err, store.ErrUnsupported)
		b, err := io.ReadAll(f)
		require.NoError(t, err)
		requireIs(t, &m, info, b)
		require.NoError(t, f.Close())
		require.NoError(t, f.Close())
	}
	require.Equal(t, int64(2), c.Stats().Direct)
	s := &storetest.Faults{Store: &m, Read: storetest.FailAt(info.NarSize, store.ErrCorrupt)}
	_, err := fetch(t.Context(), c, s, info)
	require.ErrorIs(t, err, store.ErrCorrupt)
}

func TestOptionsThatAreNone(t *testing.T) {
	_, err := artefact.Open(t.TempDir(), &artefact.Options{Budget: -1})
	require.Error(t, err)
	_, err = artefact.Open(t.TempDir(), &artefact.Options{Encoders: -1})
	require.Error(t, err)
}
