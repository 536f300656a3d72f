package catalog

import (
	"context"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Graph is everything that decides about what is kept, as it was at one moment. Times are milliseconds since 1970.
type Graph struct {
	At       int64
	Paths    []GraphPath
	Archives []GraphArchive
	Pins     []Pin // current ones, expired ones too
}

// GraphPath is a path in any state.
type GraphPath struct {
	ID          int64
	Cache       string
	Path        narinfo.StorePath
	State       State
	Archive     int    // its index in Archives
	References  string // hash parts of what it refers to but itself, one after the other
	LastUsed    int64
	LeasedUntil int64
	Until       int64 // when whoever publishes or deletes it is no longer at it
}

// GraphArchive is an archive in any state.
type GraphArchive struct {
	ID          int64
	Key         string
	State       State
	FileSize    int64 // bytes
	LeasedUntil int64
	Until       int64 // when whoever deletes it is no longer at it
}

// Graph reads it, in one transaction. For 200,000 paths with ten references each that is some 150 MB.
func (c *Catalog) Graph(ctx context.Context) (*Graph, error) {
	var g *Graph
	err := c.do(ctx, reading, func(t *tx) (err error) {
		g = &Graph{At: t.now}
		index, err := t.graphArchives(g)
		if err != nil {
			return err
		}
		if err := t.graphPaths(g, index); err != nil {
			return err
		}
		g.Pins, err = t.pins(`replaced = 0 ORDER BY cache, name`)
		return err
	})
	return g, err
}

func (t *tx) graphArchives(g *Graph) (map[int64]int, error) {
	var n int
	if _, err := t.row(`SELECT COUNT(*) FROM archives`, nil, &n); err != nil {
		return nil, err
	}
	g.Archives = make([]GraphArchive, 0, n)
	index := make(map[int64]int, n)
	var a GraphArchive
	err := t.each(`SELECT id, key, state, file_size, leased_until, until FROM archives`, nil,
		[]any{&a.ID, &a.Key, &a.State, &a.FileSize, &a.LeasedUntil, &a.Until}, func() error {
			index[a.ID] = len(g.Archives)
			g.Archives = append(g.Archives, a)
			return nil
		})
	return index, err
}

func (t *tx) graphPaths(g *Graph, index map[int64]int) error {
	var n int
	if _, err := t.row(`SELECT COUNT(*) FROM paths`, nil, &n); err != nil {
		return err
	}
	g.Paths = make([]GraphPath, 0, n)
	caches := make(map[string]string)
	var p GraphPath
	var archive int64
	return t.each(`SELECT id, cache, path, state, archive, refs, last_used, leased_until, until FROM paths`, nil,
		[]any{&p.ID, &p.Cache, &p.Path, &p.State, &archive, &p.References, &p.LastUsed, &p.LeasedUntil, &p.Until}, func() error {
			if name, ok := caches[p.Cache]; ok {
				p.Cache = name // one string for all
			} else {
				caches[p.Cache] = p.Cache
			}
			p.Archive = index[archive]
			g.Paths = append(g.Paths, p)
			return nil
		})
}
