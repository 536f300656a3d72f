package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/artefact"
)

const (
	auto = "auto"
	none = "none"
	zstd = "zstd"

	mostByDefault = 20 << 30 // bytes of artefacts
	shareOfFree   = 10       // the default is one part of this many
	maxEncoders   = 8
)

// checkArtefacts refuses settings of the artefact cache that are none or contradict each other.
func (c *Config) checkArtefacts() error {
	size, err := parseSize(c.ArtefactCache)
	sized := c.ArtefactCache != auto
	switch {
	case c.Compression != auto && c.Compression != none && c.Compression != zstd:
		return usageError{hint(fmt.Errorf("compression: %q is unknown", c.Compression), "use none, zstd or auto")}
	case sized && err != nil:
		return usageError{hint(fmt.Errorf("artefact-cache: %w", err), "write bytes, or a unit as in 500MB or 20GiB")}
	case c.Compression == none && sized && size > 0:
		return usageError{hint(errors.New("compression none and artefact-cache contradict each other"),
			"choose one of them")}
	case c.Compression == zstd && sized && size == 0:
		return usageError{hint(errors.New("compression zstd needs an artefact-cache"), "give it a size")}
	}
	return nil
}

// defaultArtefactDir is "" if there is neither a cache nor a state folder.
func (c *Config) defaultArtefactDir(env environ) string {
	dir, _, _ := strings.Cut(env["CACHE_DIRECTORY"], ":")
	if dir == "" {
		dir = c.StateDir
	}
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "artefacts")
}

// wantsArtefacts reports whether somebody asked for the cache, so that going without is a failure.
func (c *Config) wantsArtefacts(env environ) bool {
	return c.Compression == zstd || c.ArtefactCache != auto || c.ArtefactDir != c.defaultArtefactDir(env)
}

// openArtefacts opens the artefact cache of a store that keeps no archives itself; of another it returns nil.
// Where nothing is to be kept it returns a cache that compresses for each client anew: it is never offered, but clients
// that remember a compressed archive's URL, as they do for up to 30 days, still get their answer.
func (c *Config) openArtefacts(env environ, log *slog.Logger, source *source) (*artefact.Cache, error) {
	if _, keeps := source.Store.(store.ArchiveOpener); keeps {
		if c.Compression != auto || c.wantsArtefacts(env) {
			log.Warn("compression and the artefact cache are for live stores: a directory's archives are served as they are")
		}
		return nil, nil
	}
	options := &artefact.Options{Logger: log, Encoders: min(runtime.GOMAXPROCS(0), maxEncoders)}
	limitHeap(options.Encoders)
	budget, err := c.artefactBudget()
	if c.Compression == none || budget == 0 && err == nil {
		return artefact.Open("", options)
	}
	var cache *artefact.Cache
	if err == nil {
		options.Budget = budget
		cache, err = artefact.Open(c.ArtefactDir, options)
	}
	switch {
	case err == nil:
		log.Info("archives are compressed and kept", "folder", c.ArtefactDir, "budget", budget)
		return cache, nil
	case c.wantsArtefacts(env):
		return nil, hint(err, "--artefact-dir names another folder, --compression none does without")
	}
	log.Warn("no artefact cache: archives are served uncompressed", "error", err)
	return artefact.Open("", options)
}

// limitHeap has garbage collected sooner than usual: what encoders hold would double otherwise. GOMEMLIMIT is heeded.
func limitHeap(encoders int) {
	if debug.SetMemoryLimit(-1) == math.MaxInt64 {
		debug.SetMemoryLimit(40<<20 + int64(encoders)*24<<20)
	}
}

// artefactBudget is how many bytes the cache may keep. What it has already is counted as free space.
func (c *Config) artefactBudget() (int64, error) {
	if c.ArtefactCache != auto {
		n, err := parseSize(c.ArtefactCache)
		return int64(n), err
	}
	if c.ArtefactDir == "" {
		return 0, errors.New("the environment names no home")
	}
	if err := os.MkdirAll(c.ArtefactDir, 0o700); err != nil {
		return 0, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(c.ArtefactDir, &st); err != nil {
		return 0, fmt.Errorf("free space of %q: %w", c.ArtefactDir, err)
	}
	free := int64(min(st.Bavail, math.MaxInt64/uint64(st.Bsize))) * int64(st.Bsize)
	entries, err := os.ReadDir(c.ArtefactDir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			free += info.Size()
		}
	}
	return min(free/shareOfFree, mostByDefault), nil
}

func (s *server) closeArtefacts() error {
	if s.made == nil {
		return nil
	}
	return s.made.Close()
}

// artefactStatus is what /status says of the cache. Counters begin at zero with the process.
type artefactStatus struct {
	Bytes     int64 `json:"bytes"`  // on disk, growing files included
	Budget    int64 `json:"budget"` // the most that they may be; 0: nothing is kept
	Artefacts int   `json:"artefacts"`
	Running   int   `json:"running"` // archives that are being compressed or wait for that
	Hits      int64 `json:"hits"`    // answers with a finished artefact
	Joined    int64 `json:"joined"`  // answers with one that was being made for another client
	Made      int64 `json:"made"`
	Failed    int64 `json:"failed"`
	Direct    int64 `json:"direct"` // archives that were compressed for one client and not kept
	Evicted   int64 `json:"evicted"`
	Damaged   int64 `json:"damaged"`
}

func (s *server) artefactStatus() *artefactStatus {
	if s.made == nil {
		return nil
	}
	st := s.made.Stats()
	return &artefactStatus{Bytes: st.Bytes, Budget: st.Budget, Artefacts: st.Artefacts, Running: st.Running, Hits: st.Hits,
		Joined: st.Joined, Made: st.Made, Failed: st.Failed, Direct: st.Direct, Evicted: st.Evicted, Damaged: st.Damaged}
}
