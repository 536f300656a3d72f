// Package storetest holds the conformance suite that every store passes, and what tests of stores' users need:
// a store in memory and faults to inject.
//
// A driver's author calls [Test] with a function that opens the store and says what is in it.
// Whoever needs a store in a test adds archives to a [Memory], wraps it in [Faults] to see it fail,
// or in [Plain] to hide its optional abilities.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/nix-community/go-nix/pkg/nixbase32"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Memory is a store in memory. The zero value is an empty one. Safe for concurrent use.
// Besides [store.Store] it implements [store.Lister], [store.LogOpener] and [store.RealisationOpener].
type Memory struct {
	// Dir is the store directory, "" for /nix/store. It must not change once used.
	Dir string

	mu           sync.RWMutex // guards what follows
	entries      map[narinfo.HashPart]Entry
	logs         map[narinfo.StorePath]string
	realisations map[string]string
}

// Entry is one path: its metadata and its archive.
type Entry struct {
	Info *narinfo.Info
	NAR  []byte
}

var (
	_ store.Lister            = (*Memory)(nil)
	_ store.LogOpener         = (*Memory)(nil)
	_ store.RealisationOpener = (*Memory)(nil)
)

// Files is a tree by relative slash-separated path. "" alone is a tree that is one file.
// A content that begins with "-> " is a symlink with what follows as its target,
// one that begins with "#!" is an executable file, and one under a path that ends in "/" is an empty directory.
// Directories above files need no mention.
type Files map[string]string

// Archive returns the tree's NAR. It panics if the tree can't be one.
func Archive(files Files) []byte {
	var buf bytes.Buffer
	w := nar.NewWriter(&buf)
	for _, h := range headers(files) {
		must(w.WriteHeader(&h))
		if h.Type == nar.TypeRegular {
			_, err := io.WriteString(w, files[h.Path])
			must(err)
		}
	}
	must(w.Close())
	return buf.Bytes()
}

func must(err error) {
	if err != nil {
		panic("storetest: " + err.Error())
	}
}

// headers returns the tree's nodes in archive order, component by component.
func headers(files Files) []nar.Header {
	nodes := map[string]nar.Header{}
	for path, content := range files {
		clean := strings.TrimSuffix(path, "/")
		for dir := clean; dir != ""; {
			dir, _, _ = cutLast(dir)
			nodes[dir] = nar.Header{Path: dir, Type: nar.TypeDirectory}
		}
		h := nar.Header{Path: clean, Type: nar.TypeRegular, Size: int64(len(content))}
		switch target, link := strings.CutPrefix(content, "-> "); {
		case clean != path || len(files) == 0:
			h = nar.Header{Path: clean, Type: nar.TypeDirectory}
		case link:
			h = nar.Header{Path: clean, Type: nar.TypeSymlink, Target: target}
		case strings.HasPrefix(content, "#!"):
			h.Executable = true
		}
		nodes[clean] = h
	}
	return slices.SortedFunc(maps.Values(nodes), func(a, b nar.Header) int {
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
}

func cutLast(path string) (dir, name string, ok bool) {
	n := strings.LastIndexByte(path, '/')
	return path[:max(n, 0)], path[n+1:], n >= 0
}

// Add adds a path with the given name, tree and references, and returns its metadata, which is the caller's.
// The hash part is made from the name and the tree, in no way that Nix knows.
func (m *Memory) Add(name string, files Files, references ...narinfo.StorePath) *narinfo.Info {
	archive := Archive(files)
	digest := sha256.Sum256(append([]byte(name+"\x00"), archive...))
	path, err := narinfo.NewStorePath(m.StoreDir(), nixbase32.EncodeToString(digest[:20])+"-"+name)
	must(err)
	references = slices.Clone(references)
	slices.Sort(references)
	return m.AddInfo(&narinfo.Info{StorePath: path, References: slices.Compact(references)}, archive)
}

// AddInfo adds a path with this metadata; NarHash and NarSize are set from the archive.
// It returns a copy of the metadata as it was stored.
func (m *Memory) AddInfo(info *narinfo.Info, archive []byte) *narinfo.Info {
	digest := sha256.Sum256(archive)
	hash, err := narinfo.NewHash(narinfo.SHA256, digest[:])
	must(err)
	info = info.Clone()
	info.NarHash, info.NarSize = hash, int64(len(archive))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries == nil {
		m.entries = map[narinfo.HashPart]Entry{}
	}
	m.entries[info.StorePath.HashPart()] = Entry{info, archive}
	return info.Clone()
}

// AddLog adds a derivation's log.
func (m *Memory) AddLog(drv narinfo.StorePath, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.logs == nil {
		m.logs = map[narinfo.StorePath]string{}
	}
	m.logs[drv] = text
}

// AddRealisation adds a realisation's JSON text.
func (m *Memory) AddRealisation(id, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.realisations == nil {
		m.realisations = map[string]string{}
	}
	m.realisations[id] = text
}

// Delete removes a path, if it is there.
func (m *Memory) Delete(path narinfo.StorePath) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, path.HashPart())
}

// Entries returns copies of everything, ordered by path; the archives are shared.
func (m *Memory) Entries() []Entry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var all []Entry
	for _, e := range m.entries {
		all = append(all, Entry{e.Info.Clone(), e.NAR})
	}
	slices.SortFunc(all, func(a, b Entry) int {
		return strings.Compare(string(a.Info.StorePath), string(b.Info.StorePath))
	})
	return all
}

// StoreDir returns Dir, or /nix/store.
func (m *Memory) StoreDir() string {
	if m.Dir == "" {
		return narinfo.DefaultStoreDir
	}
	return m.Dir
}

// Info implements [store.Store].
func (m *Memory) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.entries[hash]
	if !ok {
		return nil, fmt.Errorf("storetest: %q: %w", hash, store.ErrNotFound)
	}
	return e.Info.Clone(), nil
}

// Open implements [store.Store].
func (m *Memory) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.entries[info.StorePath.HashPart()]
	if !ok || e.Info.StorePath != info.StorePath || e.Info.NarHash != info.NarHash {
		return nil, fmt.Errorf("storetest: %q: %w", info.StorePath, store.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(e.NAR)), nil
}

// Paths implements [store.Lister].
func (m *Memory) Paths(ctx context.Context) iter.Seq2[narinfo.StorePath, error] {
	return func(yield func(narinfo.StorePath, error) bool) {
		for _, e := range m.Entries() {
			if err := ctx.Err(); err != nil {
				yield("", err)
				return
			}
			if !yield(e.Info.StorePath, nil) {
				return
			}
		}
	}
}

// OpenLog implements [store.LogOpener].
func (m *Memory) OpenLog(_ context.Context, drv narinfo.StorePath) (io.ReadCloser, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	text, ok := m.logs[drv]
	if !ok {
		return nil, fmt.Errorf("storetest: log of %q: %w", drv, store.ErrNotFound)
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

// Realisation implements [store.RealisationOpener].
func (m *Memory) Realisation(_ context.Context, id string) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	text, ok := m.realisations[id]
	if !ok {
		return nil, fmt.Errorf("storetest: realisation %q: %w", id, store.ErrNotFound)
	}
	return []byte(text), nil
}
