package bucketstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/internal/narfile"
	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// compressions are what the extensions of archives' names say. Others could be stored, and not be checked.
var compressions = map[string]string{"": "none", "zst": "zstd", "xz": "xz", "gz": "gzip", "bz2": "bzip2"}

// receiveArchive stores an archive while it is checked. It is not visible to others until all of it was found right.
func (b *Inbox) receiveArchive(ctx context.Context, by, key string, content io.Reader) error {
	parts := archiveKey.FindStringSubmatch(key)
	compression, ok := compressions[strings.TrimPrefix(parts[2], ".")]
	if !ok {
		return refuse(store.Invalid, "archives named %s cannot be checked here: use zstd, xz or none", parts[2])
	}
	named, err := narinfo.ParseDigest(narinfo.SHA256, parts[1])
	if err != nil {
		return refuse(store.Invalid, "%q is no hash", parts[1])
	}
	return b.storeArchive(ctx, &incoming{key: key, compression: compression, named: named, by: by}, content)
}

// incoming is what is known of an archive before it arrives.
type incoming struct {
	key, compression string
	named            narinfo.Hash  // of the file
	promised         *narinfo.Info // what it must decode to; nil: to any NAR
	by               string

	size int64 // of the file, when it has been stored
}

// storeArchive stores an archive, and tells the catalog.
func (b *Inbox) storeArchive(ctx context.Context, in *incoming, content io.Reader) error {
	if b.opts.Full != nil && b.opts.Full() {
		return refuse(store.Full, "this cache has no room")
	}
	decoders := b.decoders
	if in.compression == "xz" {
		decoders = b.xz
	}
	select {
	case decoders <- struct{}{}:
		defer func() { <-decoders }()
	case <-time.After(maxQueue):
		return refuse(store.Busy, "too many uploads at once: come again in a moment")
	case <-ctx.Done():
		return ctx.Err()
	}
	upload, err := b.beginUpload(ctx, in.key)
	if err != nil {
		return refusalOf(err)
	}
	defer upload.end()
	r := newIntake(content, in, b.opts.MaxArchive, b.opts.MaxNAR)
	defer r.close()
	there, err := b.holdsRight(ctx, in)
	if err != nil {
		return err
	}
	if there {
		// Whoever reads it just now must not have it replaced under the reading. The upload only has to be the same.
		_, err = io.Copy(io.Discard, &contextReader{ctx, r})
	} else {
		_, err = b.store.files.Put(ctx, in.key, r, -1)
	}
	if err != nil {
		if refused := r.refused(in.key); refused != nil {
			return refused
		}
		return err
	}
	in.size = r.size
	err = b.catalog.AddArchive(ctx, upload.end(), b.store.name, in.by, catalog.Archive{
		Key: in.key, FileHash: in.named, FileSize: r.size, NarHash: r.narHash, NarSize: r.narSize, Compression: in.compression,
	}, b.opts.Lease)
	if errors.Is(err, catalog.ErrLeaseLost) {
		// What lies there now must have a row, for a collection to find it.
		_, again := b.catalog.BeginUpload(context.WithoutCancel(ctx), in.key, 0)
		err = errors.Join(err, again)
	}
	if err != nil {
		return refusalOf(err)
	}
	return nil
}

// holdsRight reports whether the archive lies in the bucket already, and is right.
func (b *Inbox) holdsRight(ctx context.Context, in *incoming) (bool, error) {
	a, err := b.store.openKey(ctx, in.key)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = b.store.proveOnce(a, in.named, func() error { return b.store.hashFile(ctx, a, in.named) })
	closed := a.Close()
	if errors.Is(err, store.ErrCorrupt) {
		return false, nil
	}
	return err == nil, errors.Join(err, closed)
}

// heldUpload is an upload whose lease is prolonged while its bytes come: some take longer than any lease.
type heldUpload struct {
	stop    context.CancelFunc
	renewed chan catalog.Upload // one, once it is stopped
}

func (b *Inbox) beginUpload(ctx context.Context, key string) (*heldUpload, error) {
	var upload catalog.Upload
	err := patiently(ctx, func() (err error) {
		upload, err = b.catalog.BeginUpload(ctx, key, b.opts.Lease)
		return err
	})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	h := &heldUpload{stop: stop, renewed: make(chan catalog.Upload, 1)}
	go func() {
		ticker := time.NewTicker(max(b.opts.Lease/4, time.Millisecond))
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				h.renewed <- upload
				return
			case <-ticker.C:
			}
			// One that could not be prolonged in time is a lost lease when it comes to adding the archive.
			if again, err := b.catalog.BeginUpload(ctx, key, b.opts.Lease); err == nil {
				upload = again
			}
		}
	}()
	return h, nil
}

// end stops prolonging, waits for that, and returns the upload. It may be called again.
func (h *heldUpload) end() catalog.Upload {
	h.stop()
	upload := <-h.renewed
	h.renewed <- upload
	return upload
}

// intake yields an archive's file as it arrives, and ends with io.EOF only if it is an archive with the right name.
type intake struct {
	r    io.Reader
	in   *incoming
	max  int64     // bytes of the file
	hash hash.Hash // of the file; nil: the file is the NAR, which the decoder hashes
	size int64

	feed    *feed         // to the decoder
	decoded chan struct{} // closed by the decoder, which has then set what follows
	failure error
	narHash narinfo.Hash
	narSize int64

	verdict *store.RefusedError // nil if nothing is wrong with what arrived
	err     error               // sticky
}

func newIntake(r io.Reader, in *incoming, maxFile, maxNAR int64) *intake {
	i := &intake{r: r, in: in, max: maxFile, feed: newFeed(), decoded: make(chan struct{})}
	if in.compression != "none" {
		i.hash = sha256.New()
	}
	if in.promised != nil {
		maxNAR = min(maxNAR, in.promised.NarSize)
	}
	go func() {
		defer close(i.decoded)
		i.failure = i.decode(in.compression, i.feed, maxNAR)
		i.feed.leave() // what still comes is hashed only
	}()
	return i
}

// errDecoded is what writing to a decoder that has come to its verdict fails with.
var errDecoded = errors.New("bucketstore: decoded")

// decode reads the NAR to its end, and all of the file.
func (i *intake) decode(compression string, source io.Reader, most int64) error {
	decoder := narfile.NewUploadDecoder
	if i.in.promised != nil { // an upstream's
		decoder = narfile.NewDecoder
	}
	d, err := decoder(compression, source)
	if err != nil {
		return fmt.Errorf("does not decode as %s: %w", compression, err)
	}
	defer func() { _ = d.Close() }()
	limited := &limitedReader{r: d, left: most}
	h := sha256.New()
	err = readNAR(io.TeeReader(limited, h))
	switch {
	case limited.exceeded:
		return errLimit
	case err != nil:
		return fmt.Errorf("holds no NAR: %w", err)
	}
	i.narSize = most - limited.left
	i.narHash, err = narinfo.NewHash(narinfo.SHA256, h.Sum(nil))
	return err
}

// readNAR reads one NAR, and that nothing follows it.
func readNAR(r io.Reader) error {
	for archive := nar.NewReader(r); ; {
		_, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	var one [1]byte
	switch _, err := io.ReadFull(r, one[:]); {
	case err == nil:
		return errors.New("something follows the NAR")
	case err != io.EOF:
		return err
	}
	return nil
}

// Read implements io.Reader.
func (i *intake) Read(p []byte) (int, error) {
	if i.err != nil {
		return 0, i.err
	}
	n, err := i.r.Read(p)
	i.size += int64(n)
	if i.size > i.max {
		return 0, i.refuse(store.TooLarge, "an archive of more than %d bytes", i.max)
	}
	if i.hash != nil {
		i.hash.Write(p[:n])
	}
	if _, err := i.feed.Write(p[:n]); err != nil {
		if verdict := i.wait(); verdict != nil {
			return 0, verdict
		}
	}
	switch {
	case err == io.EOF:
		if err := i.settle(); err != nil {
			return 0, err
		}
		i.err = io.EOF
	case err != nil:
		i.err = fmt.Errorf("bucketstore: an upload ends: %w", err)
	default:
		return n, nil
	}
	return n, i.err
}

// settle is called at the end of the file.
func (i *intake) settle() error {
	i.feed.finish(io.EOF)
	if err := i.wait(); err != nil {
		return err
	}
	got := i.narHash
	if i.hash != nil {
		var err error
		if got, err = narinfo.NewHash(narinfo.SHA256, i.hash.Sum(nil)); err != nil {
			return err
		}
	}
	p := i.in.promised
	switch {
	case got != i.in.named:
		return i.refuse(store.Invalid, "it hashes to %s, which is not its name", got.Base32())
	case p != nil && (i.narHash != p.NarHash || i.narSize != p.NarSize):
		return i.refuse(store.Invalid, "its NAR is not that of %s", p.StorePath)
	}
	return nil
}

// wait returns nil if the decoder found nothing wrong.
func (i *intake) wait() error {
	<-i.decoded
	switch err := i.failure; {
	case errors.Is(err, errLimit):
		return i.refuse(store.TooLarge, "it decodes to more than the limit")
	case err != nil:
		return i.refuse(store.Invalid, "it %v", err)
	}
	return nil
}

func (i *intake) refuse(why store.Refusal, format string, args ...any) error {
	i.verdict = &store.RefusedError{Why: why, Detail: fmt.Sprintf(format, args...)}
	i.err = i.verdict
	return i.err
}

// refused is why an archive is refused, nil if there was trouble of another kind.
func (i *intake) refused(key string) error {
	if i.verdict == nil {
		return nil
	}
	return refuse(i.verdict.Why, "%s: %s", key, i.verdict.Detail)
}

// close ends the decoder.
func (i *intake) close() {
	i.feed.finish(io.ErrUnexpectedEOF)
	<-i.decoded
	i.feed.release()
}
