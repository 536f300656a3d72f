package gc

import "github.com/voidnxlab/nixtrap/store/bucketstore/catalog"

const hashPartSize = 32

// edges are a graph's references as indexes of paths: those of n are to[from[n]:from[n+1]].
type edges struct {
	from []int32
	to   []int32
}

func (e *edges) of(n int32) []int32 { return e.to[e.from[n]:e.from[n+1]] }

// newEdges links paths within each cache. A reference that is not in the catalog is elsewhere, and no edge. One that is
// being published again leads to what is there.
func newEdges(g *catalog.Graph) *edges {
	total := 0
	caches := make(map[string]map[string]int32)
	for i := range g.Paths {
		p := &g.Paths[i]
		total += len(p.References) / hashPartSize
		if p.State == catalog.Publishing {
			continue
		}
		byHash := caches[p.Cache]
		if byHash == nil {
			byHash = make(map[string]int32, len(g.Paths)/(len(caches)+1))
			caches[p.Cache] = byHash
		}
		byHash[string(p.Path.HashPart())] = int32(i)
	}
	e := &edges{from: make([]int32, 1, len(g.Paths)+1), to: make([]int32, 0, total)}
	for i := range g.Paths {
		p := &g.Paths[i]
		byHash := caches[p.Cache]
		for refs := p.References; len(refs) >= hashPartSize; refs = refs[hashPartSize:] {
			if n, ok := byHash[refs[:hashPartSize]]; ok && n != int32(i) {
				e.to = append(e.to, n)
			}
		}
		e.from = append(e.from, int32(len(e.to)))
	}
	return e
}

// components are the sets of paths that refer to each other in a circle, nearly all of one path alone: a narinfo is
// anybody's claim. Numbers ascend from what is referred to, to what refers.
type components struct {
	of    []int32 // path to component
	start []int32 // those of c are order[start[c]:start[c+1]]
	order []int32
}

func (c *components) members(comp int32) []int32 { return c.order[c.start[comp]:c.start[comp+1]] }

func (c *components) count() int32 { return int32(len(c.start) - 1) }

// newComponents is Tarjan's algorithm, with a stack of its own: closures may be deep.
func newComponents(e *edges) *components {
	n := len(e.from) - 1
	c := &components{of: make([]int32, n), start: make([]int32, 1, n+1), order: make([]int32, 0, n)}
	index, low := make([]int32, n), make([]int32, n) // index 0: not yet seen
	next := make([]int32, n)                         // the edge to look at
	var stack, pending []int32
	seen := int32(0)
	for i := range c.of {
		c.of[i] = -1
	}
	for root := range int32(n) {
		if index[root] != 0 {
			continue
		}
		stack = append(stack, root)
		for len(stack) > 0 {
			v := stack[len(stack)-1]
			if index[v] == 0 {
				seen++
				index[v], low[v], next[v] = seen, seen, e.from[v]
				pending = append(pending, v)
			}
			descended := false
			for ; next[v] < e.from[v+1]; next[v]++ {
				w := e.to[next[v]]
				if index[w] == 0 {
					stack, descended = append(stack, w), true
					break
				}
				if c.of[w] < 0 {
					low[v] = min(low[v], low[w])
				}
			}
			if descended {
				continue
			}
			stack = stack[:len(stack)-1]
			if low[v] != index[v] {
				continue
			}
			comp := c.count()
			for {
				w := pending[len(pending)-1]
				pending = pending[:len(pending)-1]
				c.of[w], c.order = comp, append(c.order, w)
				if w == v {
					break
				}
			}
			c.start = append(c.start, int32(len(c.order)))
		}
	}
	return c
}
