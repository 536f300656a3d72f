package artefact_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/artefact"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

func TestTheLeastRecentlyUsedGoesFirst(t *testing.T) {
	var m storetest.Memory
	var infos []*narinfo.Info
	for i := range 5 {
		infos = append(infos, add(&m, fmt.Sprint("path", i), noise(uint64(i), 100_000)))
	}
	var evicted []narinfo.Hash
	dir := t.TempDir()
	opts := &artefact.Options{Budget: 350_000, Trace: &artefact.Trace{
		Evicted: func(h narinfo.Hash, _ int64) { evicted = append(evicted, h) }}}
	c := open(t, dir, opts)
	use := func(c *artefact.Cache, i int) {
		mustFetch(t, c, &m, infos[i])
		settle(t, c)
	}
	for _, i := range []int{0, 1, 2, 0, 3} {
		use(c, i)
	}
	require.Equal(t, []narinfo.Hash{infos[1].NarHash}, evicted)
	use(c, 4)
	require.Equal(t, []narinfo.Hash{infos[1].NarHash, infos[2].NarHash}, evicted)

	// After a restart files' times say what was used last.
	require.NoError(t, c.Close())
	for i, age := range map[int]time.Duration{0: 2 * time.Hour, 3: 3 * time.Hour, 4: time.Hour} {
		then := time.Now().Add(-age)
		require.NoError(t, os.Chtimes(artefactFile(t, dir, infos[i]), then, then))
	}
	evicted = nil
	c = open(t, dir, opts)
	use(c, 1)
	require.Equal(t, []narinfo.Hash{infos[3].NarHash}, evicted)
	require.NoError(t, c.Close())

	evicted = nil
	small := *opts
	small.Budget = 120_000
	c = open(t, dir, &small)
	require.Equal(t, []narinfo.Hash{infos[0].NarHash, infos[4].NarHash}, evicted, "a smaller budget holds at once")
	require.Equal(t, 1, c.Stats().Artefacts)
}

func TestWhatIsReadIsNotEvicted(t *testing.T) {
	synctest.Test(t, testWhatIsReadIsNotEvicted)
}

func testWhatIsReadIsNotEvicted(t *testing.T) {
	var m storetest.Memory
	a, b, other := add(&m, "a", noise(1, 100_000)), add(&m, "b", noise(2, 100_000)), add(&m, "c", noise(3, 100_000))
	dir := t.TempDir()
	c := open(t, dir, (&artefact.Options{Budget: 250_000}).WithPause(10*time.Millisecond))
	mustFetch(t, c, &m, a)
	mustFetch(t, c, &m, b)
	settle(t, c)
	f, err := c.Open(t.Context(), &m, a)
	require.NoError(t, err)
	g, err := c.Open(t.Context(), &m, b)
	require.NoError(t, err)

	requireIs(t, &m, other, mustFetch(t, c, &m, other))
	require.Equal(t, int64(1), c.Stats().Direct, "there was no room, so it was not kept")
	require.False(t, c.Describe(other.Clone()))
	require.NoError(t, f.Close())
	require.NoError(t, g.Close())
	require.Eventually(t, func() bool { return c.Describe(other.Clone()) }, time.Second, time.Millisecond)
	mustFetch(t, c, &m, other)
	settle(t, c)
	require.FileExists(t, artefactFile(t, dir, other))
}

func TestAnArchiveLargerThanTheBudget(t *testing.T) {
	var m storetest.Memory
	small, large := add(&m, "small", noise(1, 100_000)), add(&m, "large", noise(2, 3<<20))
	var log bytes.Buffer
	dir := t.TempDir()
	c := open(t, dir, (&artefact.Options{Budget: 1 << 20, Logger: slog.New(slog.NewTextHandler(&log, nil))}).
		WithPause(time.Nanosecond))
	mustFetch(t, c, &m, small)
	settle(t, c)
	require.ErrorContains(t, fetchPartly(t, c, &m, large), "no room", "the room ended in the middle of it")
	require.False(t, c.Describe(large.Clone()))
	requireIs(t, &m, large, mustFetch(t, c, &m, large))
	require.True(t, c.Describe(small.Clone()))
	require.Equal(t, 1, strings.Count(log.String(), "no room"), "%s", &log)
	names, _ := folder(t, dir)
	require.Empty(t, names, "what made room for it is gone, and so is the part of it")
	require.Zero(t, c.Stats().Bytes)
}

func TestTheBudgetHoldsUnderLoad(t *testing.T) {
	var m storetest.Memory
	var infos []*narinfo.Info
	for i := range 30 {
		infos = append(infos, add(&m, fmt.Sprint("path", i), noise(uint64(i), 50_000+i*120_000)))
	}
	const budget = 8 << 20
	dir := t.TempDir()
	onTmpfs := os.Geteuid() == 0 // its use of space can be asked for at one moment, removed files that are open included
	if onTmpfs {
		mountTmpfs(t, dir, "64m")
	}
	c := open(t, dir, (&artefact.Options{Budget: budget, Encoders: 4}).WithPause(time.Millisecond))
	stop := make(chan struct{})
	var clients, watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if size := bytesAtOnce(t, dir); size > budget {
				t.Errorf("%d bytes in a budget of %d", size, budget)
			}
			if size := used(t, dir); onTmpfs && size > budget {
				t.Errorf("%d bytes used in a budget of %d", size, budget)
			}
			if s := c.Stats(); s.Bytes > budget || s.Bytes < 0 {
				t.Errorf("%d bytes counted in a budget of %d", s.Bytes, budget)
			}
		}
	})
	var whole atomic.Int64
	for i := range 8 {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 3))
			for end := time.Now().Add(time.Second); time.Now().Before(end); {
				info := infos[random.IntN(len(infos))]
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(100))*time.Millisecond)
				b, err := fetch(ctx, c, &m, info)
				cancel()
				if err == nil {
					whole.Add(1)
					requireIs(t, &m, info, b)
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	watcher.Wait()
	settle(t, c)
	require.Positive(t, whole.Load())
	require.Positive(t, c.Stats().Evicted)
	_, size := folder(t, dir)
	require.LessOrEqual(t, size, c.Stats().Bytes)
	t.Logf("%d fetches; %+v", whole.Load(), c.Stats())
}

// bytesAtOnce adds up files that were there at the same moment: those that are all still there when all were looked at.
// Under their names files only grow.
func bytesAtOnce(t *testing.T, dir string) int64 {
	names, size := folder(t, dir)
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return 0
		}
	}
	return size
}

func used(t *testing.T, dir string) int64 {
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &st))
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

func mountTmpfs(t *testing.T, dir, size string) {
	t.Helper()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
}

func TestADiskThatIsFull(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("NIXTRAP_REQUIRE_NIX") != "" {
			t.Fatal("only root can mount a small file system (NIXTRAP_REQUIRE_NIX is set)")
		}
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	mountTmpfs(t, dir, "2m")
	var m storetest.Memory
	small, large, other := add(&m, "small", noise(1, 100_000)), add(&m, "large", noise(2, 4<<20)), add(&m, "other", "x")
	var log bytes.Buffer
	c := open(t, dir, (&artefact.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}).WithPause(time.Hour))
	mustFetch(t, c, &m, small)
	settle(t, c)
	require.ErrorIs(t, fetchPartly(t, c, &m, large), unix.ENOSPC, "the disk filled in the middle of it")
	for range 2 {
		require.False(t, c.Describe(other.Clone()), "archives are offered uncompressed")
		requireIs(t, &m, other, mustFetch(t, c, &m, other))
		requireIs(t, &m, large, mustFetch(t, c, &m, large))
	}
	require.True(t, c.Describe(small.Clone()), "what is there is still offered")
	requireIs(t, &m, small, mustFetch(t, c, &m, small))
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), "%s", &log)
	require.NoError(t, c.Close())

	c = open(t, dir, (&artefact.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}).WithPause(time.Nanosecond))
	require.ErrorIs(t, fetchPartly(t, c, &m, large), unix.ENOSPC)
	mustFetch(t, c, &m, other)
	settle(t, c)
	require.FileExists(t, artefactFile(t, dir, other))
	require.Contains(t, log.String(), "keeps archives again")
}

// fetchPartly reads an archive of which only the first frame finds room, to its error.
func fetchPartly(t *testing.T, c *artefact.Cache, m *storetest.Memory, info *narinfo.Info) error {
	t.Helper()
	g := gate(m, 1<<20)
	f, err := c.Open(t.Context(), g, info)
	require.NoError(t, err)
	defer f.Close()
	g.open()
	_, err = io.ReadAll(f)
	settle(t, c)
	return err
}

const (
	helperDir    = "NIXTRAP_ARTEFACT_DIR"
	helperBudget = 6 << 20
)

// TestMain makes this test binary the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(helperDir); dir != "" {
		compressForEver(dir)
	}
	os.Exit(m.Run())
}

// crashWorld is the same in each process.
func crashWorld() (*storetest.Memory, []*narinfo.Info) {
	var m storetest.Memory
	var infos []*narinfo.Info
	for i := range 12 {
		infos = append(infos, add(&m, fmt.Sprint("path", i), noise(uint64(i), 20_000+i*i*25_000)))
	}
	return &m, infos
}

// compressForEver keeps a cache as busy as it can, and says when it has begun.
func compressForEver(dir string) {
	m, infos := crashWorld()
	c, err := artefact.Open(dir, (&artefact.Options{Budget: helperBudget, Encoders: 2}).WithPause(time.Millisecond))
	if err != nil {
		fmt.Println("cannot open:", err)
		os.Exit(1)
	}
	fmt.Println("ready")
	for i := range 4 {
		go func() {
			random := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(i)))
			for {
				_, _ = fetch(context.Background(), c, m, infos[random.IntN(len(infos))])
			}
		}()
	}
	select {}
}

// TestKilledAtAnyMoment kills a process with a busy cache, 200 times, and looks at what it left.
func TestKilledAtAnyMoment(t *testing.T) {
	m, infos := crashWorld()
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, 1))
	kills := 200
	if raceEnabled && os.Getenv("NIXTRAP_SOAK") == "" {
		kills = 60 // a process takes a third of a second to begin
	}
	temps, published := 0, 0
	right := make(map[string]time.Time)
	for range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), helperDir+"="+dir)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "ready\n", line)
		time.Sleep(time.Duration(random.IntN(40_000)) * time.Microsecond)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		_, size := folder(t, dir)
		require.LessOrEqual(t, size, int64(helperBudget), "the budget held until the end")

		left, err := filepath.Glob(filepath.Join(dir, "tmp-*"))
		require.NoError(t, err)
		temps += len(left)
		c, err := artefact.Open(dir, &artefact.Options{Budget: helperBudget})
		require.NoError(t, err)
		names, _ := folder(t, dir)
		require.Len(t, names, c.Stats().Artefacts, "nothing half-published is left")
		for _, name := range names {
			file := filepath.Join(dir, name)
			st, err := os.Stat(file)
			require.NoError(t, err)
			if right[name].Equal(st.ModTime()) {
				continue
			}
			right[name] = st.ModTime()
			published++
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			i := indexOf(infos, name)
			require.GreaterOrEqual(t, i, 0, "%s", name)
			requireIs(t, m, infos[i], b)
		}
		require.NoError(t, c.Close())
	}
	require.Positive(t, temps, "some were killed while they wrote")
	require.Positive(t, published)
	t.Logf("%d kills left %d files half-written; %d artefacts were right", kills, temps, published)
}

func indexOf(infos []*narinfo.Info, name string) int {
	for i, info := range infos {
		if strings.HasPrefix(name, info.NarHash.Base32()+"-") {
			return i
		}
	}
	return -1
}
