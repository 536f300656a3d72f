package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/voidnxlab/nixtrap/bench/internal/program"
	"github.com/voidnxlab/nixtrap/bench/internal/target"
)

// options are what the flags say.
type options struct {
	rounds      int
	packages    int
	smallFiles  int
	workloads   []string
	connections []int
	peers       []target.Program
	narserved   string
	nginx       string
	only        []string
	out         string
	work        string
	memoryFor   int // seconds
	client      string
}

// The kinds of client.
const (
	rawClient = "raw"
	stdClient = "net/http"
)

// The workloads, in the order in which they run.
var allWorkloads = []string{"closure", "small", "first-request", "memory", "push"}

const usage = `Usage: go run ./bench/shootout [flags]

Measures Nix binary cache servers side by side, and writes a table, a CSV and a chart below --out.
It needs Nix and nginx (Debian: apt install nix-bin nginx-light zstd), and puts paths into the machine's Nix store.

Flags:
`

func parseOptions(args []string, stderr io.Writer) (*options, error) {
	o := &options{connections: []int{1, 4, 16}}
	set := flag.NewFlagSet("shootout", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.Usage = func() { fmt.Fprint(stderr, usage); set.PrintDefaults() }
	set.IntVar(&o.rounds, "rounds", 9, "number of rounds")
	set.IntVar(&o.packages, "packages", 150, "number of Debian packages in the closure")
	set.IntVar(&o.smallFiles, "small-files", 50_000, "number of files in the small-file path")
	set.Func("workload", "`LIST` of closure, small, first-request, memory, push (default closure,small)", o.setWorkloads)
	first := set.Bool("first-request", false, "measure the first request of a zstd NAR; alone unless --workload says more")
	memory := set.Bool("memory", false, "measure memory and start-up; alone unless --workload says more")
	set.Func("connections", "`LIST` of numbers of connections (default 1,4,16)", o.setConnections)
	set.Func("peer", "`NAME=PROGRAM` or NAME=http://HOST:PORT of another server (repeatable)", o.addPeer)
	set.StringVar(&o.narserved, "narserved", "", "`PROGRAM` to measure instead of building this module's")
	set.StringVar(&o.nginx, "nginx", "nginx", "`PROGRAM` to compare with")
	set.Func("only", "`LIST` of words: only targets whose names contain one, and the nginx ones", o.setOnly)
	set.StringVar(&o.client, "client", rawClient, "`KIND` of client: "+rawClient+", which costs next to nothing, or "+stdClient)
	set.StringVar(&o.out, "out", "bench/results", "`FOLDER` for the results")
	set.StringVar(&o.work, "work", "", "`FOLDER` for flat caches, kept for the next run (default in the user's cache folder)")
	set.IntVar(&o.memoryFor, "memory-seconds", 30, "how long the readers of --memory read")
	if err := program.Parse(set, args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, program.Misuse(fmt.Errorf("takes no arguments, but got %q", set.Arg(0)))
	}
	o.addModes(*first, *memory)
	return o, o.complete()
}

// addModes adds the workloads that have flags of their own.
func (o *options) addModes(first, memory bool) {
	if first {
		o.workloads = append(o.workloads, "first-request")
	}
	if memory {
		o.workloads = append(o.workloads, "memory")
	}
	if len(o.workloads) == 0 {
		o.workloads = []string{"closure", "small"}
	}
}

func (o *options) complete() error {
	if o.rounds < 1 || o.packages < 1 || o.smallFiles < 1 || o.memoryFor < 1 {
		return program.Misuse(errors.New("numbers must be 1 or more"))
	}
	if o.client != rawClient && o.client != stdClient {
		return program.Misuse(fmt.Errorf("--client %q is neither %s nor %s", o.client, rawClient, stdClient))
	}
	if o.work != "" {
		return nil
	}
	cache, err := os.UserCacheDir()
	o.work = filepath.Join(cache, "nixtrap-shootout")
	return err
}

func (o *options) has(workload string) bool { return slices.Contains(o.workloads, workload) }

func (o *options) setWorkloads(list string) error {
	for word := range strings.SplitSeq(list, ",") {
		if !slices.Contains(allWorkloads, word) {
			return fmt.Errorf("no workload %q (%s)", word, strings.Join(allWorkloads, ", "))
		}
		o.workloads = append(o.workloads, word)
	}
	return nil
}

func (o *options) setConnections(list string) error {
	o.connections = nil
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > 1000 {
			return fmt.Errorf("%q is no number of connections", word)
		}
		o.connections = append(o.connections, n)
	}
	return nil
}

func (o *options) addPeer(spec string) error {
	p, err := target.Peer(spec)
	if err == nil {
		o.peers = append(o.peers, p)
	}
	return err
}

func (o *options) setOnly(list string) error {
	o.only = strings.Split(list, ",")
	return nil
}

// wants reports whether a target takes part.
func (o *options) wants(name string) bool {
	return len(o.only) == 0 || strings.HasPrefix(name, "nginx") ||
		slices.ContainsFunc(o.only, func(word string) bool { return strings.Contains(name, word) })
}
