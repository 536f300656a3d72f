package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/voidnxlab/nixtrap/bench/internal/madestore"
	"github.com/voidnxlab/nixtrap/bench/internal/proc"
	"github.com/voidnxlab/nixtrap/bench/internal/report"
	"github.com/voidnxlab/nixtrap/bench/internal/stats"
	"github.com/voidnxlab/nixtrap/bench/internal/target"
	"github.com/voidnxlab/nixtrap/narinfo"
)

const (
	readers     = 64
	readerRate  = 1 << 20 // bytes a second
	manyPaths   = 200_000
	fewPaths    = 20_000 // more than SQLite keeps of a database in memory
	lookups     = 20_000
	memoryLimit = 96 << 20 // beside configured caches
	startLimit  = 100 * time.Millisecond
	growthLimit = 8 << 20 // an allocator's noise
	starts      = 9
)

// runMemory measures what slow readers of large NARs cost, and a database of many paths.
func (s *shootout) runMemory(ctx context.Context) error {
	few, err := s.madeStore(ctx, fewPaths, 0)
	if err != nil {
		return err
	}
	defer os.RemoveAll(few.Dir)
	many, err := s.madeStore(ctx, manyPaths, 4)
	if err != nil {
		return err
	}
	defer os.RemoveAll(many.Dir)
	if err := s.measureStart(ctx, many); err != nil {
		return err
	}
	if err := s.measureGrowth(ctx, few, many); err != nil {
		return err
	}
	return s.measureReaders(ctx, many)
}

func (s *shootout) madeStore(ctx context.Context, paths, files int) (*madestore.Store, error) {
	s.say("making a store of %d paths", paths+files)
	dir, err := os.MkdirTemp(s.work, "store-")
	if err != nil {
		return nil, err
	}
	m := &madestore.Store{Dir: dir, Paths: paths, Files: files, FileSize: 4 << 30}
	if err := m.Make(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return m, nil
}

// over is a narserved over a made store; what it keeps of files in memory is not to be counted.
func (s *shootout) over(m *madestore.Store) target.Program {
	flags := []string{"--store", m.URI()}
	if s.server.Has("compression") {
		flags = append(flags, "--compression", "none")
	}
	if s.server.Has("memory-cache") {
		flags = append(flags, "--memory-cache", "0")
	}
	return s.server.Serve(identity, flags...)
}

// measureStart measures from before a server is started until it has answered a narinfo.
func (s *shootout) measureStart(ctx context.Context, m *madestore.Store) error {
	var took []float64
	for i := range starts {
		server, err := target.Start(ctx, s.over(m))
		if err != nil {
			return err
		}
		err = askNarinfos(ctx, server, m, i, 1)
		took = append(took, time.Since(server.Started).Seconds()*1e3)
		if err := errors.Join(err, server.Close()); err != nil {
			return err
		}
	}
	t := stats.Summarize(took)
	s.verdicts = append(s.verdicts, report.Verdict{
		What: fmt.Sprintf("memory: start to first narinfo, %d paths", manyPaths), Want: "< " + startLimit.String(),
		Got:     fmt.Sprintf("%.0f ms (%.0f to %.0f)", t.Median, t.Low, t.High),
		Reached: t.Median < startLimit.Seconds()*1e3,
	})
	return nil
}

// askNarinfos asks for n of the store's narinfos in turn, from the first on.
func askNarinfos(ctx context.Context, server *target.Server, m *madestore.Store, first, n int) error {
	conn := server.Connect()
	defer conn.Close()
	for i := first; i < first+n; i++ {
		r, err := conn.Get(ctx, "/"+filepath.Base(m.Path(i % m.Paths))[:32]+".narinfo")
		if err != nil {
			return err
		}
		if r.Status != http.StatusOK {
			return fmt.Errorf("narinfo of path %d: status %d", i, r.Status)
		}
	}
	_, err := conn.Discard()
	return err
}

// measureGrowth compares memory after the same number of questions to a small store and to a large one.
func (s *shootout) measureGrowth(ctx context.Context, few, many *madestore.Store) error {
	var rss [2]int64
	for i, m := range []*madestore.Store{few, many} {
		server, err := target.Start(ctx, s.over(m))
		if err != nil {
			return err
		}
		err = askNarinfos(ctx, server, m, 0, lookups)
		memory, memoryErr := proc.MemoryOf(server.PID)
		rss[i] = memory.Now
		if err := errors.Join(err, memoryErr, server.Close()); err != nil {
			return err
		}
	}
	s.verdicts = append(s.verdicts, report.Verdict{
		What: fmt.Sprintf("memory: RSS of %d paths beside %d, %d narinfos", manyPaths, fewPaths, lookups),
		Want: fmt.Sprintf("≤ %d MiB more", growthLimit>>20),
		Got:  fmt.Sprintf("%s beside %s", mebibytes(rss[1]), mebibytes(rss[0])), Reached: rss[1]-rss[0] <= growthLimit,
	})
	return nil
}

// measureReaders lets slow readers read, and looks at the greatest memory that the server had.
func (s *shootout) measureReaders(ctx context.Context, m *madestore.Store) error {
	s.say("%d readers for %d s", readers, s.memoryFor)
	server, err := target.Start(ctx, s.over(m))
	if err != nil {
		return err
	}
	defer server.Close()
	end := time.Now().Add(time.Duration(s.memoryFor) * time.Second)
	group, ctx := errgroup.WithContext(ctx)
	for i := range readers {
		p := m.Real[i%len(m.Real)]
		url := "/" + filepath.Base(p.Path)[:32] + ".narinfo"
		group.Go(func() error { return readSlowly(ctx, server, url, end) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("slow readers: %w\n%s", err, server.Log())
	}
	memory, err := proc.MemoryOf(server.PID)
	s.verdicts = append(s.verdicts, report.Verdict{
		What: fmt.Sprintf("memory: peak RSS, %d readers of %.0f GiB NARs at 1 MiB/s for %d s", readers,
			float64(m.FileSize)/(1<<30), s.memoryFor),
		Want: "< " + mebibytes(memoryLimit), Got: mebibytes(memory.Peak), Reached: memory.Peak < memoryLimit,
	})
	return err
}

// readSlowly reads the NAR that a narinfo names, until end.
func readSlowly(ctx context.Context, server *target.Server, narinfoURL string, end time.Time) error {
	conn := server.Connect()
	defer conn.Close()
	if _, err := conn.Get(ctx, narinfoURL); err != nil {
		return err
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	info, err := narinfo.Parse(text)
	if err != nil {
		return err
	}
	url := info.URL
	r, err := conn.Get(ctx, "/"+url)
	if err != nil {
		return err
	}
	if r.Status != http.StatusOK {
		return fmt.Errorf("%s: status %d", url, r.Status)
	}
	const part = readerRate / 10
	turn := time.NewTicker(time.Second / 10)
	defer turn.Stop()
	for time.Now().Before(end) {
		if _, err := io.CopyN(io.Discard, conn, part); err != nil {
			return fmt.Errorf("%s: %w", url, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-turn.C:
		}
	}
	return nil
}

func mebibytes(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }
