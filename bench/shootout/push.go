package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/bench/internal/contest"
	"github.com/voidnxlab/nixtrap/bench/internal/proc"
	"github.com/voidnxlab/nixtrap/bench/internal/report"
	"github.com/voidnxlab/nixtrap/bench/internal/target"
	"github.com/voidnxlab/nixtrap/bench/internal/workload"
)

const (
	uploads       = "narserved --upload"
	ownPush       = "narserved push"
	directory     = "nix copy, file://"
	dropping      = "nix copy, nothing kept" // what the client and HTTP alone take
	transferLimit = 1.2                      // of nix copy's time
	pushers       = 16
	pushMemory    = 128 << 20
)

// runPush measures a Nix that pushes a closure to an upload directory, and pulls it back, against one that does the same
// with the directory itself.
func (s *shootout) runPush(ctx context.Context) error {
	if !s.needs(uploads, "upload") {
		return nil
	}
	closure, err := s.makeClosure(ctx)
	if err != nil {
		return err
	}
	p := &pushing{shootout: s, top: closure[len(closure)-1]} // referrers come last
	for _, c := range closure {
		p.logical += c.NarSize
	}
	for _, compression := range []string{"none", "zstd"} {
		if err := p.compete(ctx, compression); err != nil {
			return err
		}
	}
	return p.measureMemory(ctx)
}

// pushing is the workload.
type pushing struct {
	*shootout
	top     workload.Path
	logical int64
}

func (p *pushing) compete(ctx context.Context, compression string) error {
	name := "push and pull, " + compression
	passes := []contest.Pass{{Kind: contest.Push, Repeat: 1}, {Kind: contest.Pull, Repeat: 1}}
	transfer := func(kind contest.Kind, label string, copy func(context.Context, string, string) (took, cpu time.Duration, err error)) contest.Contender {
		return &contest.Transfer{Kind: kind, Label: label, Logical: p.logical, Copy: func(ctx context.Context) (time.Duration, time.Duration, error) {
			dir, err := os.MkdirTemp(p.work, "push-")
			if err != nil {
				return 0, 0, err
			}
			defer func() { _ = removeAll(dir) }()
			return copy(ctx, dir, compression)
		}}
	}
	board, err := contest.Run(ctx, p.rounds, passes, []contest.Contender{
		transfer(contest.Push, directory, p.pushToDirectory), transfer(contest.Push, uploads, p.pushToServer),
		transfer(contest.Push, ownPush, p.pushOurselves), transfer(contest.Push, dropping, p.pushToNobody),
		transfer(contest.Pull, directory, p.pullFromDirectory), transfer(contest.Pull, uploads, p.pullFromServer),
	}, func(what string) { p.say("%s: %s", name, what) })
	if err != nil {
		return err
	}
	r := &report.Run{Workload: name, Board: board, Baselines: []string{directory}}
	p.runs = append(p.runs, r)
	goals := []report.Goal{{Contender: ownPush, Baseline: directory, Pass: passes[0], Quantity: report.Time, Limit: transferLimit}}
	for _, pass := range passes {
		goals = append(goals, report.Goal{
			Contender: uploads, Baseline: directory, Pass: pass, Quantity: report.Time, Limit: transferLimit,
		})
	}
	p.verdicts = append(p.verdicts, report.Judge(name, board, goals)...)
	return report.Table(p.stdout, r)
}

// pushToDirectory is nix copy followed by a sync: it syncs nothing itself, and the server does.
func (p *pushing) pushToDirectory(ctx context.Context, dir, compression string) (took, cpu time.Duration, err error) {
	unix.Sync()
	start := time.Now()
	err = p.nix.Copy(ctx, dir, "--to", "file://"+dir+"/flat?compression="+compression, p.top.Path)
	unix.Sync()
	return time.Since(start), 0, err
}

func (p *pushing) pullFromDirectory(ctx context.Context, dir, compression string) (took, cpu time.Duration, err error) {
	flat, err := p.nix.Flat(ctx, compression, p.top)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	err = p.nix.Copy(ctx, dir, "--from", "file://"+flat, "--no-check-sigs", "--to", dir+"/store", p.top.Path)
	return time.Since(start), 0, err
}

func (p *pushing) pushToServer(ctx context.Context, dir, compression string) (took, cpu time.Duration, err error) {
	return p.withServer(ctx, dir, dir+"/bucket", func(s *target.Server) error {
		return p.push(ctx, s, dir, compression)
	})
}

// pushOurselves is our own client in Nix's place.
func (p *pushing) pushOurselves(ctx context.Context, dir, compression string) (took, cpu time.Duration, err error) {
	return p.withServer(ctx, dir, dir+"/bucket", func(s *target.Server) error {
		out, err := exec.CommandContext(ctx, p.server.Program, "push", "--to", "http://"+s.Addr, "--compression", compression,
			"--token-file", filepath.Join(p.work, "push-token"), p.top.Path).CombinedOutput()
		if err != nil {
			return fmt.Errorf("push: %w: %s", err, out)
		}
		return nil
	})
}

// pushToNobody is nix copy to a server that takes all and keeps nothing.
func (p *pushing) pushToNobody(ctx context.Context, dir, compression string) (took, cpu time.Duration, err error) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusCreated)
		case r.URL.Path == "/nix-cache-info":
			_, _ = io.WriteString(w, "StoreDir: /nix/store\n")
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer s.Close()
	start := time.Now()
	err = p.nix.Copy(ctx, dir, "--to", s.URL+"?compression="+compression, p.top.Path)
	return time.Since(start), 0, err
}

func (p *pushing) pullFromServer(ctx context.Context, dir, compression string) (took, cpu time.Duration, err error) {
	flat, err := p.nix.Flat(ctx, compression, p.top)
	if err != nil {
		return 0, 0, err
	}
	return p.withServer(ctx, dir, flat, func(s *target.Server) error {
		return p.nix.Copy(ctx, dir, "--from", "http://"+s.Addr, "--no-check-sigs", "--to", dir+"/store", p.top.Path)
	})
}

// push is one nix copy to a server, with a home of its own below dir.
func (p *pushing) push(ctx context.Context, s *target.Server, dir, compression string) error {
	host, _, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(p.work, "push-token"))
	if err != nil {
		return err
	}
	netrc := filepath.Join(dir, "netrc")
	if err := os.WriteFile(netrc, []byte(fmt.Sprintf("machine %s login x password %s", host, token)), 0o600); err != nil {
		return err
	}
	return p.nix.Copy(ctx, dir, "--to", "http://"+s.Addr+"?compression="+compression, "--option", "netrc-file", netrc, p.top.Path)
}

// withServer times do beside a server over a bucket.
func (p *pushing) withServer(ctx context.Context, dir, bucket string, do func(*target.Server) error) (took, cpu time.Duration, err error) {
	server, err := p.start(ctx, bucket)
	if err != nil {
		return 0, 0, err
	}
	defer server.Close()
	unix.Sync()
	before, err := proc.CPU(server.PID)
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if err := do(server); err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, server.Log())
	}
	took = time.Since(start)
	after, err := proc.CPU(server.PID)
	return took, after - before, err
}

// start starts a server over a bucket that takes uploads with the token in the work folder.
func (p *pushing) start(ctx context.Context, bucket string) (*target.Server, error) {
	tokens, token := filepath.Join(p.work, "push-tokens.json"), filepath.Join(p.work, "push-token")
	if _, err := os.Stat(token); err != nil {
		cmd := exec.CommandContext(ctx, p.server.Program, "token", "create", "--name", "shootout", "--scope", "push,read",
			"--token-file", tokens)
		text, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("token create: %w", err)
		}
		if err := os.WriteFile(token, text, 0o600); err != nil {
			return nil, err
		}
	}
	return target.Start(ctx, p.server.Serve(uploads, "--upload", "--store", "file://"+bucket, "--token-file", tokens))
}

// measureMemory lets many Nix push at once, and looks at the greatest memory that the server had.
func (p *pushing) measureMemory(ctx context.Context) error {
	p.say("%d pushes at once", pushers)
	dir, err := os.MkdirTemp(p.work, "push-")
	if err != nil {
		return err
	}
	defer func() { _ = removeAll(dir) }()
	server, err := p.start(ctx, dir+"/bucket")
	if err != nil {
		return err
	}
	defer server.Close()
	group, groupCtx := errgroup.WithContext(ctx)
	for i := range pushers {
		home := fmt.Sprintf("%s/%d", dir, i)
		if err := os.Mkdir(home, 0o755); err != nil {
			return err
		}
		group.Go(func() error { return p.push(groupCtx, server, home, []string{"zstd", "none"}[i%2]) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, server.Log())
	}
	memory, err := proc.MemoryOf(server.PID)
	p.verdicts = append(p.verdicts, report.Verdict{
		What: fmt.Sprintf("push: peak RSS, %d at once", pushers), Want: "< " + mebibytes(pushMemory),
		Got: mebibytes(memory.Peak), Reached: memory.Peak < pushMemory,
	})
	return err
}

// removeAll removes a folder with store paths, which are read-only.
func removeAll(dir string) error {
	_ = filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_ = os.Chmod(name, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
