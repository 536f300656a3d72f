package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/voidnxlab/nixtrap/bench/internal/program"
	"github.com/voidnxlab/nixtrap/bench/internal/protocol"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

const usage = `Usage: go run ./bench/conform [flags] URL

Checks a server of a Nix binary cache. Exits with 1 if a check fails.

Flags:
`

// run is the program. args are without its name.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	subject := &protocol.Subject{Dump: dump}
	set := flag.NewFlagSet("conform", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.Usage = func() { fmt.Fprint(stderr, usage); set.PrintDefaults() }
	set.Func("path", "store `PATH` that the server has (repeatable; default: some that the local store has too)",
		func(text string) error { return addPath(subject, text) })
	set.Func("public-key", "`KEY` that signs each narinfo, as in trusted-public-keys (repeatable)", func(text string) error {
		keys, err := signing.ParseKeyring(text)
		subject.Keys = append(subject.Keys, keys...)
		return err
	})
	sample := set.Int("sample", 20, "how many paths of the local store to take where no --path is given")
	set.DurationVar(&subject.Slowly, "slowly", 3*time.Second, "how long the slow reader reads slowly")
	if err := program.Parse(set, args); err != nil {
		return err
	}
	if set.NArg() != 1 {
		return program.Misuse(errors.New("takes one URL (see --help; flags come before it)"))
	}
	subject.URL = set.Arg(0)
	if len(subject.Paths) == 0 {
		if err := findPaths(ctx, subject, *sample); err != nil {
			return err
		}
	}
	results, err := protocol.Check(ctx, subject)
	if err != nil {
		return err
	}
	return printResults(stdout, results)
}

func addPath(subject *protocol.Subject, text string) error {
	path, err := narinfo.ParseStorePath(text)
	if err == nil {
		subject.Paths = append(subject.Paths, path)
	}
	return err
}

// printResults writes a table, and fails if a check did.
func printResults(w io.Writer, results []protocol.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	count := make(map[protocol.Outcome]int)
	for _, r := range results {
		count[r.Outcome]++
		fmt.Fprintf(t, "%s\t%s\t%s\n", r.Outcome, r.Check, strings.ReplaceAll(r.Reason, "\n", "\n\t\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped, %d absent\n", count[protocol.Passed], count[protocol.Failed],
		count[protocol.Skipped], count[protocol.Absent])
	if n := count[protocol.Failed]; n > 0 {
		return fmt.Errorf("%d of %d checks failed", n, len(results))
	}
	return nil
}

// findPaths takes paths of the local store that the server has, spread over the whole store.
func findPaths(ctx context.Context, subject *protocol.Subject, n int) error {
	out, err := exec.CommandContext(ctx, "nix", "--extra-experimental-features", "nix-command", "path-info", "--all").Output()
	if err != nil {
		return fmt.Errorf("no --path is given, and the local store cannot be asked for some: nix path-info --all: %w", err)
	}
	all := strings.Fields(string(out))
	client := &http.Client{Timeout: 30 * time.Second}
	step := max(1, len(all)/max(1, 3*n)) // not all of them will be there
	for start := 0; start < step; start++ {
		for i := start; i < len(all) && len(subject.Paths) < n; i += step {
			path, err := narinfo.ParseStorePath(all[i])
			if err != nil {
				continue
			}
			has, err := hasPath(ctx, client, subject.URL, path)
			if err != nil {
				return err
			}
			if has {
				subject.Paths = append(subject.Paths, path)
			}
		}
	}
	if len(subject.Paths) == 0 {
		return fmt.Errorf("%s has none of the %d paths of the local store: name some with --path", subject.URL, len(all))
	}
	return nil
}

func hasPath(ctx context.Context, client *http.Client, base string, path narinfo.StorePath) (bool, error) {
	url := strings.TrimSuffix(base, "/") + "/" + string(path.HashPart()) + ".narinfo"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return false, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<20))
	return answer.StatusCode == http.StatusOK, answer.Body.Close()
}

// dump opens a path's NAR in the local store.
func dump(ctx context.Context, path narinfo.StorePath) (io.ReadCloser, error) {
	if _, err := exec.LookPath("nix-store"); err != nil {
		return nil, protocol.ErrNoDump
	}
	if err := exec.CommandContext(ctx, "nix-store", "--check-validity", string(path)).Run(); err != nil {
		return nil, protocol.ErrNoDump
	}
	cmd := exec.CommandContext(ctx, "nix-store", "--dump", string(path))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{out, cmd}, nil
}

// process is the output of a command.
type process struct {
	io.ReadCloser
	cmd *exec.Cmd
}

// Close ends the command, if it hasn't ended, and waits for it.
func (p *process) Close() error {
	err := p.ReadCloser.Close()
	_ = p.cmd.Wait() // what it has written was compared: its status tells nothing more
	return err
}
