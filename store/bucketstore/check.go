package bucketstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/internal/narfile"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

func suspectInfo(n *foundInfo, kind Kind, key, format string, args ...any) *suspect {
	return &suspect{info: n.info, Finding: Finding{
		Kind: kind, Cache: n.cache, Path: n.info.StorePath, Key: key, Detail: fmt.Sprintf(format, args...),
	}}
}

// suspectNarinfos compares narinfos with their rows and their archives' files.
func (f *fsck) suspectNarinfos() []*suspect {
	var all []*suspect
	for _, n := range f.narinfos {
		if s := f.suspectRow(n); s != nil {
			all = append(all, s)
		}
		if s := f.suspectArchiveOf(n); s != nil {
			all = append(all, s)
		}
	}
	return all
}

func (f *fsck) suspectRow(n *foundInfo) *suspect {
	switch row := f.known.paths[n.key]; {
	case row == nil:
		s := suspectInfo(n, UnknownNarinfo, n.key, "the catalog does not know this path")
		s.still = func(_ context.Context, now *known) (bool, error) { return now.paths[n.key] == nil, nil }
		return s
	case !row.unsettled && !row.agrees(n):
		s := suspectInfo(n, DifferentNarinfo, n.key, "the catalog knows %s with the archive %s, and other references or another archive than the file",
			row.live.Path, row.archive)
		s.still = func(ctx context.Context, now *known) (bool, error) {
			again, err := f.readNarinfo(ctx, f.files, n.key)
			if err != nil {
				return false, ignoreAbsentOrCorrupt(err)
			}
			row := now.paths[n.key]
			return row != nil && !row.unsettled && !row.agrees(again), nil
		}
		return s
	}
	return nil
}

// suspectArchiveOf looks at an archive's presence and size. Whoever deletes removes the narinfo before the archive.
func (f *fsck) suspectArchiveOf(n *foundInfo) *suspect {
	e, there := f.entries[n.archive]
	size := storedSize(n.info)
	var s *suspect
	switch {
	case !there:
		s = suspectInfo(n, LostArchive, n.archive, "there is no such archive")
	case size != 0 && e.Size != size:
		s = suspectInfo(n, WrongSize, n.archive, "the archive has %d bytes, not %d", e.Size, size)
	default:
		return nil
	}
	s.still = func(ctx context.Context, _ *known) (bool, error) { return f.stillWrong(ctx, s, n, size) }
	return s
}

func (f *fsck) stillWrong(ctx context.Context, s *suspect, n *foundInfo, size int64) (bool, error) {
	if s.Kind == LostArchive && s.version != nil {
		return false, nil
	}
	if s.Kind == WrongSize {
		if s.version == nil {
			return false, nil // gone meanwhile
		}
		o, err := f.files.Open(ctx, n.archive)
		if err != nil {
			return false, ignoreNotFound(err)
		}
		state, err := o.State()
		if err := errors.Join(err, o.Close()); err != nil || state.Size == size {
			return false, err
		}
	}
	return f.promises(ctx, n)
}

// promises reports whether a narinfo lies there still, and says the same of its archive.
func (f *fsck) promises(ctx context.Context, n *foundInfo) (bool, error) {
	now, err := f.readNarinfo(ctx, f.files, n.key)
	if err != nil {
		return false, ignoreAbsentOrCorrupt(err)
	}
	return promiseOf(now.info) == promiseOf(n.info), nil
}

func ignoreAbsentOrCorrupt(err error) error {
	if errors.Is(err, store.ErrCorrupt) {
		return nil
	}
	return ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// suspectRows looks for live rows without a narinfo, and for archives without a file that no path needs.
func (f *fsck) suspectRows() []*suspect {
	var all []*suspect
	for _, key := range slices.Sorted(maps.Keys(f.known.paths)) {
		row := f.known.paths[key]
		if _, there := f.entries[key]; there || row.live == nil || row.unsettled {
			continue
		}
		s := &suspect{Finding: Finding{Kind: LostNarinfo, Cache: row.cache, Path: row.live.Path, Key: key,
			Detail: "the catalog knows this path, and there is no such file"}}
		s.still = func(_ context.Context, now *known) (bool, error) {
			row := now.paths[key]
			return s.version == nil && row != nil && row.live != nil && !row.unsettled, nil
		}
		all = append(all, s)
	}
	for _, key := range slices.Sorted(maps.Keys(f.known.archives)) {
		a := f.known.archives[key]
		e, there := f.entries[key]
		if a.State != catalog.Live || f.known.needed[key] || there && e.Size == a.FileSize {
			continue
		}
		all = append(all, f.suspectUpload(key, a.FileSize, there, e.Size))
	}
	return all
}

// suspectUpload is about an archive that was uploaded, and waits for its narinfo or for a collection.
func (f *fsck) suspectUpload(key string, size int64, there bool, is int64) *suspect {
	s := &suspect{Finding: Finding{Kind: LostArchive, Key: key, Detail: "the catalog knows this archive, and there is no such file"}}
	if there {
		s.Kind, s.Detail = WrongSize, fmt.Sprintf("the archive has %d bytes, not %d", is, size)
	}
	s.still = func(ctx context.Context, now *known) (bool, error) {
		a := now.archives[key]
		if a == nil || a.State != catalog.Live || now.needed[key] || (s.version != nil) != there {
			return false, nil
		}
		if !there {
			return true, nil
		}
		o, err := f.files.Open(ctx, key)
		if err != nil {
			return false, ignoreNotFound(err)
		}
		state, err := o.State()
		return state.Size != a.FileSize, errors.Join(err, o.Close())
	}
	return s
}

// suspectReferences asks elsewhere for all that is not in a path's cache, once.
func (f *fsck) suspectReferences(ctx context.Context) ([]*suspect, error) {
	absent := make(map[narinfo.StorePath]bool)
	missing := make(map[*foundInfo][]narinfo.StorePath)
	for _, n := range f.narinfos {
		if of := f.missing(n); len(of) > 0 {
			missing[n] = of
			for _, p := range of {
				absent[p] = true
			}
		}
	}
	if f.opts.Elsewhere != nil && len(absent) > 0 {
		nowhere, err := f.opts.Elsewhere(ctx, slices.Sorted(maps.Keys(absent)))
		if err != nil {
			return nil, fmt.Errorf("bucketstore: look for references elsewhere: %w", err)
		}
		clear(absent)
		for _, p := range nowhere {
			absent[p] = true
		}
	}
	var all []*suspect
	for n, of := range missing {
		for _, p := range of {
			if absent[p] {
				all = append(all, f.suspectReference(n, p))
			}
		}
	}
	return all, nil
}

func (f *fsck) suspectReference(n *foundInfo, reference narinfo.StorePath) *suspect {
	key := catalog.NarinfoKey(n.cache, reference.HashPart())
	s := suspectInfo(n, MissingReference, n.key, "it refers to %s, which is not there", reference)
	s.still = func(ctx context.Context, _ *known) (bool, error) {
		other, err := f.readNarinfo(ctx, f.files, key)
		if err == nil && other.info.StorePath == reference {
			return false, nil
		}
		if err := ignoreAbsentOrCorrupt(err); err != nil {
			return false, err
		}
		// Whoever deletes removes the referrer first: if that is there now, this was seen at one time.
		now, err := f.readNarinfo(ctx, f.files, n.key)
		if err != nil {
			return false, ignoreAbsentOrCorrupt(err)
		}
		return slices.Contains(now.info.References, reference), nil
	}
	return s
}

// suspectArchives looks for archives that nobody needs or knows. A row comes before the file and goes after it.
func (f *fsck) suspectArchives() []*suspect {
	promised := make(map[string]bool, len(f.narinfos))
	for _, n := range f.narinfos {
		promised[n.archive] = true
	}
	var all []*suspect
	for _, key := range slices.Sorted(maps.Keys(f.entries)) {
		if !strings.HasPrefix(key, "nar/") || promised[key] || f.known.archives[key] != nil {
			continue
		}
		s := &suspect{Finding: Finding{Kind: Unneeded, Key: key,
			Detail: fmt.Sprintf("no path refers to this archive of %d bytes, and the catalog does not know it", f.entries[key].Size)}}
		s.still = func(_ context.Context, now *known) (bool, error) {
			return s.version != nil && now.archives[key] == nil, nil
		}
		all = append(all, s)
	}
	return all
}

// leaver is [Files] in which writers that die leave something that List does not yield.
type leaver interface {
	leftovers(ctx context.Context, olderThan time.Duration) iter.Seq2[Entry, error]
	removeLeftover(key string) error
}

// suspectLeftovers looks for listings without a narinfo, which come before it and go after it, and for unfinished files.
func (f *fsck) suspectLeftovers(ctx context.Context) ([]*suspect, error) {
	var all []*suspect
	for _, key := range slices.Sorted(maps.Keys(f.entries)) {
		if e := f.entries[key]; time.Since(e.Modified) < f.opts.Stale {
			continue
		}
		cache, name, _ := splitKey(key)
		stem, isListing := strings.CutSuffix(name, ".ls")
		if _, err := narinfo.ParseHashPart(stem); !isListing || err != nil {
			continue
		}
		of := siblingOf(key, ".narinfo")
		if _, there := f.entries[of]; there || f.known.paths[of] != nil {
			continue
		}
		s := &suspect{Finding: Finding{Kind: LeftOver, Cache: cache, Key: key, Detail: "a listing without a narinfo"}}
		s.still = func(ctx context.Context, now *known) (bool, error) {
			there, err := f.exists(ctx, of)
			return s.version != nil && !there && now.paths[of] == nil, err
		}
		all = append(all, s)
	}
	l, ok := f.files.(leaver)
	if !ok {
		return all, nil
	}
	for e, err := range l.leftovers(ctx, f.opts.Stale) {
		if err != nil {
			return nil, err
		}
		all = append(all, &suspect{Finding: Finding{Kind: LeftOver, Key: e.Key,
			Detail: fmt.Sprintf("%d bytes of a file that was not finished", e.Size)}})
	}
	return all, nil
}

// contentChunk is how many archives are read between two reports.
const contentChunk = 64

// checkContents reads each archive once for each promise that is made about it.
func (f *fsck) checkContents(ctx context.Context) error {
	var promises []*foundInfo
	seen := make(map[promise]bool)
	for _, n := range f.narinfos {
		p := promiseOf(n.info)
		p.url = n.archive
		if e, there := f.entries[n.archive]; !seen[p] && there && (storedSize(n.info) == 0 || e.Size == storedSize(n.info)) {
			seen[p] = true
			promises = append(promises, n)
		}
	}
	for chunk := range slices.Chunk(promises, contentChunk) {
		found := make([]*suspect, len(chunk))
		err := inParallel(ctx, len(chunk), f.opts.Parallel, func(i int) (err error) {
			found[i], err = f.checkContent(ctx, chunk[i])
			return err
		})
		if err != nil {
			return err
		}
		if err := f.report(ctx, slices.DeleteFunc(found, func(s *suspect) bool { return s == nil })); err != nil {
			return err
		}
	}
	return nil
}

// checkContent returns what is wrong with an archive, nil if nothing is.
func (f *fsck) checkContent(ctx context.Context, n *foundInfo) (*suspect, error) {
	c, err := readContent(ctx, f.files, n.archive, n.info)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil // it went meanwhile
	}
	if err != nil || c.changed {
		return nil, err
	}
	kind, detail := c.judge(n)
	if kind == "" {
		return nil, nil
	}
	s := suspectInfo(n, kind, n.archive, "%s", detail)
	s.version = c.state.Version
	wrong, err := f.promises(ctx, n)
	if err != nil || !wrong {
		return nil, err
	}
	return s, nil
}

// content is what an archive holds.
type content struct {
	state             State
	changed           bool // while it was read
	fileHash, narHash narinfo.Hash
	narSize           int64
	err               error // of decoding
}

// readContent reads an archive in full, and decodes what it takes to see whether it is what info says.
func readContent(ctx context.Context, files Files, key string, info *narinfo.Info) (*content, error) {
	o, err := files.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	c := &content{}
	if c.state, err = o.State(); err != nil {
		return nil, err
	}
	source := &fileReader{Object: o}
	fileHash, narHash := sha256.New(), sha256.New()
	file := io.TeeReader(&contextReader{ctx, source}, fileHash)
	c.narSize, c.err = decodeInto(narHash, compressionOf(info), file, info.NarSize)
	_, err = io.Copy(io.Discard, file)
	if err := errors.Join(err, source.err, ctx.Err()); err != nil {
		return nil, fmt.Errorf("bucketstore: reading %q: %w", key, err)
	}
	now, err := o.State()
	if err != nil {
		return nil, err
	}
	c.changed = now.Version != c.state.Version
	if c.fileHash, err = narinfo.NewHash(narinfo.SHA256, fileHash.Sum(nil)); err != nil {
		return nil, err
	}
	c.narHash, err = narinfo.NewHash(narinfo.SHA256, narHash.Sum(nil))
	return c, err
}

// fileReader remembers that reading the file failed, whatever a decoder makes of it.
type fileReader struct {
	Object
	err error
}

// Read implements io.Reader.
func (r *fileReader) Read(p []byte) (int, error) {
	n, err := r.Object.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func compressionOf(info *narinfo.Info) string {
	if info.Compression == "" {
		return "bzip2" // what Nix takes it for
	}
	return info.Compression
}

// decodeInto decodes at most one byte more than there should be.
func decodeInto(w io.Writer, compression string, r io.Reader, size int64) (int64, error) {
	d, err := narfile.NewDecoder(compression, r)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(w, io.LimitReader(d, size+1))
	return n, errors.Join(err, d.Close())
}

// judge says what is wrong, "" if nothing is.
func (c *content) judge(n *foundInfo) (Kind, string) {
	info := n.info
	if hasFileHash(info) && c.fileHash != info.FileHash {
		return WrongHash, fmt.Sprintf("the file hashes to %s, not %s", c.fileHash, info.FileHash)
	}
	if m := archiveKey.FindStringSubmatch(n.archive); m != nil && m[1] != c.fileHash.Base32() {
		return WrongHash, fmt.Sprintf("the file hashes to %s, which is not its name", c.fileHash)
	}
	switch {
	case errors.Is(c.err, errors.ErrUnsupported):
		return Unchecked, fmt.Sprintf("its compression %q cannot be decoded here", info.Compression)
	case c.err != nil:
		return WrongContent, fmt.Sprintf("the archive does not decode (%v)", c.err)
	case c.narSize > info.NarSize:
		return WrongContent, fmt.Sprintf("the NAR in it goes on after %d bytes", info.NarSize)
	case c.narSize < info.NarSize:
		return WrongContent, fmt.Sprintf("the NAR in it ends after %d bytes, not %d", c.narSize, info.NarSize)
	case c.narHash != info.NarHash:
		return WrongContent, fmt.Sprintf("the NAR in it hashes to %s, not %s", c.narHash, info.NarHash)
	}
	return "", ""
}
