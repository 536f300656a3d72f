package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/voidnxlab/nixtrap/bench/internal/contest"
	"github.com/voidnxlab/nixtrap/bench/internal/report"
	"github.com/voidnxlab/nixtrap/bench/internal/stats"
	"github.com/voidnxlab/nixtrap/bench/internal/workload"
	"github.com/voidnxlab/nixtrap/narinfo"
)

const (
	bigSize   = 128 << 20
	zstdTool  = "zstd -3 --single-thread"
	firstByte = 20 // milliseconds
)

// runFirstRequest measures the first request of a compressed NAR, whose artefact is made meanwhile, against zstd.
func (s *shootout) runFirstRequest(ctx context.Context) error {
	if !s.needs(zstd, "compression", "artefact-dir") {
		return nil
	}
	path, err := s.makeBig(ctx)
	if err != nil {
		return err
	}
	file, err := s.nix.Dump(ctx, path)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file) }()
	copied, err := s.copiedSize(ctx, path)
	if err != nil {
		return err
	}
	p := contest.Pass{Kind: contest.First, Connections: 1, Repeat: 1}
	board, err := contest.Run(ctx, s.rounds, []contest.Pass{p}, []contest.Contender{
		&contest.Command{
			Kind: contest.First, Label: zstdTool, Logical: path.NarSize,
			Args: []string{"sh", "-c", `exec zstd -q -3 --single-thread -c "$0" >/dev/null`, file},
		},
		&contest.Fresh{Program: s.server.Serve(zstd, "--compression", "zstd", "--artefact-dir", "DIR"), Path: path},
	}, func(what string) { s.say("first request: %s", what) })
	if err != nil {
		return err
	}
	r := &report.Run{Workload: "first request", Board: board, Baselines: []string{zstdTool}}
	s.runs = append(s.runs, r)
	s.verdicts = append(s.verdicts, report.Judge("first request", board, []report.Goal{
		{Contender: zstd, Baseline: zstdTool, Pass: p, Limit: 1.2},
	})...)
	s.judgeFirst(board.Find(p, zstd), copied)
	return report.Table(s.stdout, r)
}

// makeBig makes the path that is asked for; a closure that is too small gives a smaller one.
func (s *shootout) makeBig(ctx context.Context) (workload.Path, error) {
	closure, err := s.makeClosure(ctx)
	if err != nil {
		return workload.Path{}, err
	}
	var total int64
	for _, p := range closure {
		total += p.NarSize
	}
	if total < bigSize*5/4 {
		return workload.Path{}, fmt.Errorf("a closure of %d MB is too small to make a path of %d MB: --packages more",
			total/1e6, bigSize/1_000_000)
	}
	s.say("making a path of %d MB", bigSize/1_000_000)
	return s.nix.Big(ctx, closure, bigSize)
}

// copiedSize is how long nix copy's archive of a path is.
func (s *shootout) copiedSize(ctx context.Context, path workload.Path) (int64, error) {
	dir, err := s.nix.Flat(ctx, "zstd", path)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(filepath.Join(dir, path.HashPart()+".narinfo"))
	if err != nil {
		return 0, err
	}
	info, err := narinfo.Parse(text)
	if err != nil {
		return 0, err
	}
	return info.FileSize, nil
}

// judgeFirst adds the verdicts that aren't ratios of the contest.
func (s *shootout) judgeFirst(ours *contest.Series, copied int64) {
	var wire, first []float64
	for _, sample := range ours.Samples {
		wire = append(wire, float64(sample.Wire)/float64(copied))
		first = append(first, sample.FirstByte.Seconds()*1e3)
	}
	w, f := stats.Summarize(wire), stats.Summarize(first)
	s.verdicts = append(s.verdicts,
		report.Verdict{
			What: "first request: " + zstd + "'s wire bytes against nix copy's", Want: "wire ≤ 1.00",
			Got: fmt.Sprintf("%.3f (nix copy: %.1f MB)", w.Median, float64(copied)/1e6), Reached: w.Median <= 1,
		},
		report.Verdict{
			What: "first request: " + zstd + "'s first byte", Want: fmt.Sprintf("< %d ms", firstByte),
			Got: strings.TrimSpace(fmt.Sprintf("%.1f ms (%.1f to %.1f)", f.Median, f.Low, f.High)), Reached: f.Median < firstByte,
		})
}
