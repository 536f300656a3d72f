package bucketstore

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Keeper stores in an inbox's cache what is read from another one: it is a receiver of package pullthrough.
// It is safe for concurrent use.
//
// An archive gets the name that it has in every bucket, whatever its URL was, and is decoded and hashed while it arrives,
// as an upload is. If its FileHash is not known before, it is first written to a temporary file without a name: a name in
// the bucket that is not its hash would have to be copied to another (no bucket renames) and be cleaned away after a
// crash, and those who read the bucket could see it.
//
// A path that the cache has, or comes to have meanwhile by an upload, stays as it is.
//
// The path keeps the signatures that it came with. Whether they are to be trusted is for who read it to say: the inbox's
// Trusted are not asked for.
type Keeper struct {
	Inbox *Inbox

	// From is where the paths come from, for the catalog.
	From string

	// Elsewhere is where what a path refers to may be, besides this cache: that other cache, for one. nil: nowhere.
	Elsewhere Elsewhere
}

// Receive stores a path's archive and publishes the path, if archive ends with a bare io.EOF and is what info promises.
// An archive that cannot be decoded here is refused, for nothing would prove its NAR. What is refused is a
// [store.RefusedError]; an error of archive is returned wrapped; nothing of the path can then be seen. Where there is nothing
// to be done it returns nil and reads nothing. info may be changed.
func (k *Keeper) Receive(ctx context.Context, info *narinfo.Info, archive io.Reader) error {
	b := k.Inbox
	if info.StorePath.Dir() != b.store.StoreDir() {
		return refuse(store.Invalid, "this cache is for paths in %s, not %s", b.store.StoreDir(), info.StorePath)
	}
	if err := checkAddress(info); err != nil {
		return err
	}
	if there, err := b.current(ctx, info.StorePath.HashPart()); err != nil || there != nil {
		return err
	}
	if info.Compression == "" {
		info.Compression = "bzip2"
	}
	ext, ok := extensionOf(info.Compression)
	if !ok {
		return refuse(store.Invalid, "%s is compressed with %.20q, which cannot be checked here", info.StorePath, info.Compression)
	}
	named := info.FileHash
	if named.Type() != narinfo.SHA256 && info.Compression == "none" {
		named = info.NarHash
	}
	if named.Type() != narinfo.SHA256 {
		f, err := os.CreateTemp(b.opts.TempDir, "nixtrap-keep-")
		if err != nil {
			return fmt.Errorf("bucketstore: %w", err)
		}
		defer f.Close()
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("bucketstore: %w", err)
		}
		if named, err = b.spool(ctx, f, archive); err != nil {
			return err
		}
		archive = f
	}
	in := &incoming{key: "nar/" + named.Base32() + ".nar" + ext, compression: info.Compression, named: named, promised: info, by: k.From}
	if err := b.storeArchive(ctx, in, archive); err != nil {
		return err
	}
	if there, err := b.current(ctx, info.StorePath.HashPart()); err != nil || there != nil {
		return err
	}
	info.URL, info.FileHash, info.FileSize = in.key, named, in.size
	return b.announce(ctx, k.From, info, k.Elsewhere, 0)
}

// extensionOf is what follows ".nar" in the name of an archive that is so compressed.
func extensionOf(compression string) (ext string, ok bool) {
	for ext, c := range compressions {
		if c != compression {
			continue
		}
		if ext == "" {
			return "", true
		}
		return "." + ext, true
	}
	return "", false
}

// spool writes an archive to a file, goes back to its beginning, and returns its hash.
func (b *Inbox) spool(ctx context.Context, f *os.File, archive io.Reader) (narinfo.Hash, error) {
	h := sha256.New()
	limited := &limitedReader{r: archive, left: b.opts.MaxArchive}
	_, err := io.Copy(io.MultiWriter(f, h), &contextReader{ctx, limited})
	if limited.exceeded {
		return narinfo.Hash{}, refuse(store.TooLarge, "an archive of more than %d bytes", b.opts.MaxArchive)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return narinfo.Hash{}, fmt.Errorf("bucketstore: keeping an archive: %w", err)
	}
	return narinfo.NewHash(narinfo.SHA256, h.Sum(nil))
}
