package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/voidnxlab/nixtrap/bench/internal/contest"
	"github.com/voidnxlab/nixtrap/bench/internal/proc"
	"github.com/voidnxlab/nixtrap/bench/internal/report"
	"github.com/voidnxlab/nixtrap/bench/internal/target"
	"github.com/voidnxlab/nixtrap/bench/internal/workload"
)

// The targets' names.
const (
	identity = "narserved"
	noMemory = "narserved --memory-cache 0"
	roomy    = "narserved --memory-cache 512MiB" // room for the whole small-file path
	zstd     = "narserved zstd"
	flatNAR  = "nginx .nar"
	flatZstd = "nginx .nar.zst"
	dump     = "nix-store --dump | cat"
)

// shootout is a run of the program.
type shootout struct {
	*options
	nix       *workload.Nix
	server    *target.Narserved
	stdout    io.Writer
	stderr    io.Writer
	closure   []workload.Path // made when first asked for
	runs      []*report.Run
	verdicts  []report.Verdict
	leftOut   map[string]bool
	nginxPath string
}

// run is the program. args are without its name.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	s := &shootout{options: o, stdout: stdout, stderr: stderr, leftOut: make(map[string]bool)}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	for _, w := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"closure", s.runClosure}, {"small", s.runSmall},
		{"first-request", s.runFirstRequest}, {"memory", s.runMemory}, {"push", s.runPush},
	} {
		if o.has(w.name) {
			if err := w.run(ctx); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	return s.report(ctx)
}

func (s *shootout) say(format string, args ...any) { fmt.Fprintf(s.stderr, format+"\n", args...) }

// prepare finds or makes all programs.
func (s *shootout) prepare(ctx context.Context) error {
	if err := workload.Available(); err != nil {
		return err
	}
	var err error
	if s.nginxPath, err = findNginx(s.nginx); err != nil {
		return err
	}
	if err := os.MkdirAll(s.work, 0o755); err != nil {
		return err
	}
	s.nix = &workload.Nix{Dir: s.work}
	if s.narserved != "" {
		s.server, err = target.NewNarserved(ctx, s.narserved)
		return err
	}
	s.say("building narserved")
	s.server, err = target.BuildNarserved(ctx, s.work)
	return err
}

// findNginx looks also where Debian has it, which is not on everybody's PATH.
func findNginx(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil && !strings.Contains(program, "/") {
		path, err = exec.LookPath("/usr/sbin/" + program)
	}
	if err != nil {
		return "", fmt.Errorf("no nginx here (Debian: apt install nginx-light): %w", err)
	}
	return path, nil
}

// targets are the programs over paths, in the order in which they are shown.
func (s *shootout) targets(ctx context.Context, paths []workload.Path, own []target.Program) ([]target.Program, error) {
	var all []target.Program
	add := func(p target.Program) {
		if s.wants(p.Name) {
			all = append(all, p)
		}
	}
	for _, flat := range []struct{ name, compression string }{{flatNAR, "none"}, {flatZstd, "zstd"}} {
		s.say("nix copy, compression %s", flat.compression)
		dir, err := s.nix.Flat(ctx, flat.compression, paths...)
		if err != nil {
			return nil, err
		}
		add(target.Nginx(flat.name, s.nginxPath, dir))
	}
	for _, t := range own {
		add(t)
	}
	return append(all, s.peers...), nil
}

// ownTargets are narserved in its variants, as far as this narserved has their flags.
func (s *shootout) ownTargets() []target.Program {
	var plain []string
	if s.server.Has("compression") {
		plain = []string{"--compression", "none"}
	}
	all := []target.Program{s.server.Serve(identity, plain...)}
	if s.needs(noMemory, "memory-cache") {
		all = append(all, s.server.Serve(noMemory, append(plain[:len(plain):len(plain)], "--memory-cache", "0")...))
	}
	if s.needs(zstd, "compression", "artefact-dir") {
		all = append(all, s.server.Serve(zstd, "--compression", "zstd", "--artefact-dir", "DIR"))
	}
	return all
}

// roomyTarget is narserved with memory for all the small files, beside ownTargets. Without the flag there is none.
func (s *shootout) roomyTarget() []target.Program {
	if !s.needs(roomy, "memory-cache") {
		return nil
	}
	flags := []string{"--memory-cache", "512MiB"}
	if s.server.Has("compression") {
		flags = append(flags, "--compression", "none")
	}
	return []target.Program{s.server.Serve(roomy, flags...)}
}

// needs reports whether narserved has flags, and says once what is left out if not.
func (s *shootout) needs(name string, flags ...string) bool {
	for _, flag := range flags {
		if !s.server.Has(flag) {
			if !s.leftOut[name] {
				s.say("left out: %s, for this narserved has no --%s", name, flag)
			}
			s.leftOut[name] = true
			return false
		}
	}
	return true
}

// compete starts programs, lets them and others compete, and stops them.
func (s *shootout) compete(ctx context.Context, name string, passes []contest.Pass, programs []target.Program,
	paths []workload.Path, others ...contest.Contender,
) (contest.Board, error) {
	var contenders []contest.Contender
	for _, p := range programs {
		server, err := target.Start(ctx, p)
		if err != nil {
			return nil, err
		}
		defer server.Close()
		client := contest.NewClient(server, paths)
		client.Std = s.client == stdClient
		contenders = append(contenders, client)
	}
	board, err := contest.Run(ctx, s.rounds, passes, append(contenders, others...), func(what string) {
		s.say("%s: %s", name, what)
	})
	if err != nil {
		return nil, err
	}
	r := &report.Run{Workload: name, Board: board, Baselines: []string{flatNAR, flatZstd, dump}}
	s.runs = append(s.runs, r)
	return board, report.Table(s.stdout, r)
}

// report writes what was found to stdout and to files.
func (s *shootout) report(ctx context.Context) error {
	machine := proc.Describe(ctx, s.nginxPath)
	var text, verdicts, samples, chart bytes.Buffer
	fmt.Fprintln(&text, strings.Join(append(machine.Lines(), "client: "+s.client), "\n"))
	for _, r := range s.runs {
		if err := report.Table(&text, r); err != nil {
			return err
		}
	}
	for _, v := range s.verdicts {
		fmt.Fprintln(&verdicts, v.Line())
	}
	fmt.Fprintf(s.stdout, "\n%s", verdicts.Bytes())
	fmt.Fprintf(&text, "\n%s", verdicts.Bytes())
	if err := report.CSV(&samples, s.runs); err != nil {
		return err
	}
	panels := report.Panels(s.runs, func(name string) bool { return strings.HasPrefix(name, identity) })
	if err := report.Chart(&chart, panels, s.notes(machine)); err != nil {
		return err
	}
	return s.write(map[string][]byte{
		"shootout.txt": text.Bytes(), "shootout.csv": samples.Bytes(), "shootout.svg": chart.Bytes(),
	})
}

// notes is the chart's small print.
func (s *shootout) notes(m proc.Machine) []string {
	return []string{
		fmt.Sprintf("Medians and quartiles of %d rounds; servers and client share %d cores (%s).", s.rounds, m.Cores, m.CPU),
		fmt.Sprintf("%s; %s; %s; %s; %s; %s.", m.Date, m.Kernel, m.Go, m.Nginx, m.Nix, m.Commit),
	}
}

// write puts files into the folder for results. A run without rounds has no samples and no chart to keep.
func (s *shootout) write(files map[string][]byte) error {
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if len(s.runs) == 0 && !strings.HasSuffix(name, ".txt") {
			continue
		}
		if len(s.workloads) == 1 && s.workloads[0] != allWorkloads[0] { // leaves the results of the main run alone
			name = strings.Replace(name, "shootout", s.workloads[0], 1)
		}
		if err := os.WriteFile(filepath.Join(s.out, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
