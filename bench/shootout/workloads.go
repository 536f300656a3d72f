package main

import (
	"context"

	"github.com/voidnxlab/nixtrap/bench/internal/contest"
	"github.com/voidnxlab/nixtrap/bench/internal/report"
	"github.com/voidnxlab/nixtrap/bench/internal/workload"
)

// narinfoRepeat makes a pass over narinfos long enough to be measured.
const narinfoRepeat = 30

func (s *shootout) makeClosure(ctx context.Context) ([]workload.Path, error) {
	if s.closure != nil {
		return s.closure, nil
	}
	s.say("making a closure of %d packages", s.packages)
	var err error
	s.closure, err = s.nix.Closure(ctx, s.packages)
	return s.closure, err
}

// runClosure measures with a closure of real packages.
func (s *shootout) runClosure(ctx context.Context) error {
	paths, err := s.makeClosure(ctx)
	if err != nil {
		return err
	}
	programs, err := s.targets(ctx, paths, s.ownTargets())
	if err != nil {
		return err
	}
	narinfos := contest.Pass{Kind: contest.Narinfo, Connections: 1, Repeat: narinfoRepeat}
	absent := contest.Pass{Kind: contest.Absent, Connections: 1, Repeat: narinfoRepeat}
	passes := []contest.Pass{narinfos, absent}
	var goals []report.Goal
	for _, p := range passes {
		goals = append(goals,
			report.Goal{Contender: identity, Baseline: flatNAR, Pass: p, Quantity: report.Time, Limit: 1.1})
	}
	for _, n := range s.connections {
		p := contest.Pass{Kind: contest.NAR, Connections: n, Repeat: 1}
		passes = append(passes, p)
		goals = append(goals,
			report.Goal{Contender: identity, Baseline: flatNAR, Pass: p, Limit: 1},
			report.Goal{Contender: noMemory, Baseline: flatNAR, Pass: p, Limit: 0.85},
			report.Goal{Contender: zstd, Baseline: flatZstd, Pass: p, Limit: 0.95},
			report.Goal{Contender: zstd, Baseline: flatZstd, Pass: p, Quantity: report.Wire, Limit: 1})
	}
	board, err := s.compete(ctx, "closure", passes, programs, paths)
	s.verdicts = append(s.verdicts, report.Judge("closure", board, goals)...)
	return err
}

// runSmall measures with one path of many small files, and over one connection with what Nix itself does to pack it.
func (s *shootout) runSmall(ctx context.Context) error {
	s.say("making a path of %d small files", s.smallFiles)
	path, err := s.nix.SmallFiles(ctx, s.smallFiles)
	if err != nil {
		return err
	}
	paths := []workload.Path{path}
	programs, err := s.targets(ctx, paths, append(s.ownTargets(), s.roomyTarget()...))
	if err != nil {
		return err
	}
	var passes []contest.Pass
	for _, n := range s.connections {
		if n <= 4 { // each connection fetches the whole path, and 16 tell no more than 4
			passes = append(passes, contest.Pass{Kind: contest.NAR, Connections: n, Repeat: n})
		}
	}
	one := contest.Pass{Kind: contest.NAR, Connections: 1, Repeat: 1}
	board, err := s.compete(ctx, "small files", passes, programs, paths, &contest.Command{
		Kind: contest.NAR, Label: dump, Logical: path.NarSize,
		Args: []string{"sh", "-c", `nix-store --dump "$0" | cat >/dev/null`, path.Path},
	})
	s.verdicts = append(s.verdicts, report.Judge("small files", board, []report.Goal{
		{Contender: roomy, Baseline: dump, Pass: one, Limit: 3},
		{Contender: noMemory, Baseline: dump, Pass: one, Limit: 2.4},
	})...)
	return err
}
