package bucketstore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// inventory is what lies in a bucket.
type inventory struct {
	entries   map[string]Entry  // by key
	stores    map[string]string // the store directory of each cache
	narinfos  []*foundInfo      // ordered by key
	byKey     map[string]*foundInfo
	malformed []*suspect

	mu    sync.Mutex // guards names
	names map[string]string
}

// compact keeps of a narinfo what is compared and entered, each name once however often it is referred to: all narinfos
// of a bucket are in memory together.
func (v *inventory) compact(i *narinfo.Info) *narinfo.Info {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := &narinfo.Info{
		StorePath: narinfo.StorePath(v.name(string(i.StorePath))), URL: strings.Clone(i.URL), Compression: v.name(i.Compression),
		FileHash: i.FileHash, FileSize: i.FileSize, NarHash: i.NarHash, NarSize: i.NarSize,
		Deriver: narinfo.StorePath(v.name(string(i.Deriver))), References: make([]narinfo.StorePath, len(i.References)),
	}
	for n, r := range i.References {
		c.References[n] = narinfo.StorePath(v.name(string(r)))
	}
	return c
}

func (v *inventory) name(s string) string {
	known, ok := v.names[s]
	if !ok {
		known = strings.Clone(s)
		v.names[known] = known
	}
	return known
}

// foundInfo is a narinfo of the bucket.
type foundInfo struct {
	key, cache string
	info       *narinfo.Info
	archive    string // the key of its archive
}

// takeInventory lists a bucket and reads its narinfos.
func takeInventory(ctx context.Context, files Files, parallel int) (*inventory, error) {
	v := &inventory{entries: make(map[string]Entry), stores: make(map[string]string), byKey: make(map[string]*foundInfo),
		names: make(map[string]string)}
	for e, err := range files.List(ctx, "") {
		if err != nil {
			return nil, err
		}
		v.entries[e.Key] = e
	}
	var keys []string
	for key := range v.entries {
		cache, name, ok := splitKey(key)
		if !ok {
			continue
		}
		if _, isInfo := narinfoKey(name); isInfo {
			keys = append(keys, key)
			v.stores[cache] = narinfo.DefaultStoreDir
		}
	}
	slices.Sort(keys)
	for key := range v.entries {
		if cache, name, ok := splitKey(key); ok && name == cacheInfoName {
			if err := v.readCacheInfo(ctx, files, cache, key); err != nil {
				return nil, err
			}
		}
	}
	return v, v.readNarinfos(ctx, files, keys, parallel)
}

// splitKey tells whose cache's a file is, and its name there.
func splitKey(key string) (cache, name string, ok bool) {
	cache, name, nested := strings.Cut(key, "/")
	if !nested {
		return "", key, true
	}
	if !IsCacheName(cache) {
		return "", key, true
	}
	return cache, name, true
}

func (v *inventory) readCacheInfo(ctx context.Context, files Files, cache, key string) error {
	s := &Store{files: files, name: cache}
	err := s.readCacheInfo(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil && ctx.Err() != nil {
		return err
	}
	v.stores[cache] = s.cacheInfo.StoreDir
	if err != nil {
		v.stores[cache] = narinfo.DefaultStoreDir
		v.malformed = append(v.malformed, &suspect{Finding: Finding{Kind: Malformed, Cache: cache, Key: key, Detail: err.Error()}})
	}
	return nil
}

func (v *inventory) readNarinfos(ctx context.Context, files Files, keys []string, parallel int) error {
	found := make([]*foundInfo, len(keys))
	wrong := make([]*suspect, len(keys))
	err := inParallel(ctx, len(keys), parallel, func(i int) error {
		info, err := v.readNarinfo(ctx, files, keys[i])
		if errors.Is(err, store.ErrCorrupt) {
			cache, _, _ := splitKey(keys[i])
			wrong[i] = &suspect{Finding: Finding{Kind: Malformed, Cache: cache, Key: keys[i], Detail: err.Error()}}
			wrong[i].still = func(ctx context.Context, _ *known) (bool, error) {
				_, err := v.readNarinfo(ctx, files, keys[i])
				return errors.Is(err, store.ErrCorrupt), ignoreAbsentOrCorrupt(err)
			}
			return nil
		}
		if errors.Is(err, store.ErrNotFound) {
			return nil // it went meanwhile
		}
		found[i] = info
		return err
	})
	if err != nil {
		return err
	}
	for i := range keys {
		switch {
		case wrong[i] != nil:
			v.malformed = append(v.malformed, wrong[i])
		case found[i] != nil:
			v.narinfos = append(v.narinfos, found[i])
			v.byKey[keys[i]] = found[i]
		default:
			delete(v.entries, keys[i])
		}
	}
	return nil
}

// readNarinfo reads one; what is wrong with it is store.ErrCorrupt.
func (v *inventory) readNarinfo(ctx context.Context, files Files, key string) (*foundInfo, error) {
	cache, name, _ := splitKey(key)
	hash, ok := narinfoKey(name)
	if !ok {
		return nil, notFound(key)
	}
	s := &Store{files: files, name: cache, cacheInfo: narinfo.CacheInfo{StoreDir: v.stores[cache]}}
	info, err := s.readInfo(ctx, hash)
	if err != nil {
		return nil, err
	}
	archive := s.key(info.URL)
	if !isKey(archive) {
		return nil, fmt.Errorf("bucketstore: %s has the URL %.300q, which leads out of the bucket: %w", key, info.URL, store.ErrCorrupt)
	}
	return &foundInfo{key, cache, v.compact(info), archive}, nil
}

// missing returns the references that have no narinfo in the cache, itself excepted.
func (v *inventory) missing(n *foundInfo) []narinfo.StorePath {
	var missing []narinfo.StorePath
	for _, r := range n.info.References {
		other := v.byKey[catalog.NarinfoKey(n.cache, r.HashPart())]
		if r != n.info.StorePath && (other == nil || other.info.StorePath != r) {
			missing = append(missing, r)
		}
	}
	return missing
}

// known is what a catalog knows, at one moment.
type known struct {
	at       int64
	paths    map[string]*knownPath // by the narinfo's key
	archives map[string]*catalog.GraphArchive
	needed   map[string]bool // keys of archives that a row of any state has
}

// knownPath is what is in one path's place.
type knownPath struct {
	cache     string
	live      *catalog.GraphPath // nil if it is not
	archive   string             // of the live one
	unsettled bool               // somebody is, or was, publishing or deleting it
}

func readKnown(ctx context.Context, c *catalog.Catalog) (*known, error) {
	g, err := c.Graph(ctx)
	if err != nil {
		return nil, err
	}
	k := &known{at: g.At, paths: make(map[string]*knownPath, len(g.Paths)),
		archives: make(map[string]*catalog.GraphArchive, len(g.Archives)), needed: make(map[string]bool, len(g.Archives))}
	for i := range g.Archives {
		k.archives[g.Archives[i].Key] = &g.Archives[i]
	}
	for i := range g.Paths {
		p := &g.Paths[i]
		key := catalog.NarinfoKey(p.Cache, p.Path.HashPart())
		at := k.paths[key]
		if at == nil {
			at = &knownPath{cache: p.Cache}
			k.paths[key] = at
		}
		archive := g.Archives[p.Archive].Key
		k.needed[archive] = true
		if p.State == catalog.Live {
			at.live, at.archive = p, archive
		} else {
			at.unsettled = true
		}
	}
	return k, nil
}

// agrees reports whether a live row says what a narinfo says.
func (p *knownPath) agrees(n *foundInfo) bool {
	refs := make([]string, 0, len(n.info.References))
	for _, r := range n.info.References {
		if r != n.info.StorePath {
			refs = append(refs, string(r.HashPart()))
		}
	}
	slices.Sort(refs)
	known := make([]string, 0, len(refs))
	for rest := p.live.References; len(rest) >= hashPartSize; rest = rest[hashPartSize:] {
		known = append(known, rest[:hashPartSize])
	}
	slices.Sort(known)
	return p.live.Path == n.info.StorePath && p.archive == n.archive && slices.Equal(refs, known)
}

const hashPartSize = 32

// inParallel calls f(0) … f(n-1), and returns the error of the first that failed; others may not have been called then.
func inParallel(ctx context.Context, n, workers int, f func(int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var running sync.WaitGroup
	for range min(workers, n) {
		running.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	running.Wait()
	return context.Cause(ctx)
}

// siblingOf is the key of another file about the same path.
func siblingOf(key, extension string) string {
	return strings.TrimSuffix(key, path.Ext(key)) + extension
}
