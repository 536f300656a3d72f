package bucketstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/internal/pause"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// Defaults of [InboxOptions].
const (
	DefaultMaxArchive = 16 << 30
	DefaultMaxNAR     = 64 << 30
	DefaultLease      = time.Hour
)

// InboxOptions say what an [Inbox] takes. nil and the zero value are the defaults.
type InboxOptions struct {
	// Trusted are the keys of which one must have signed a path, a content-addressed one too. nil: any path is taken.
	Trusted signing.Keyring

	// Sign adds our signatures to what is taken.
	Sign []*signing.SecretKey

	// Elsewhere looks into upstreams that are complete. nil: a path may refer only to what is in this cache.
	Elsewhere Elsewhere

	// MaxArchive and MaxNAR are the most bytes of an archive's file, and of what it decodes to.
	// 0: [DefaultMaxArchive], [DefaultMaxNAR].
	MaxArchive, MaxNAR int64

	// Full reports whether there is no room for more archives. It must be quick. nil: there always is.
	Full func() bool

	// Lease is how long an archive waits for its narinfo, and a path for what refers to it: so long what was uploaded, and
	// what a pusher was told is there, is kept. 0: [DefaultLease].
	Lease time.Duration

	// TempDir is where an archive lies while its hash is computed, if nobody has said what that is (see [Keeper]).
	// "": [os.TempDir].
	TempDir string

	// Logger is told of what is published (Info). nil: nobody is.
	Logger *slog.Logger
}

// Elsewhere returns those of the paths that are not where the clients of a cache look besides. An error means that it
// could not be told.
type Elsewhere = func(ctx context.Context, paths []narinfo.StorePath) (missing []narinfo.StorePath, err error)

// Inbox takes uploads into one cache of a bucket. It is safe for concurrent use, and so are several of them, in several
// processes, over the same bucket and catalog.
//
// An archive is decoded while it arrives: it becomes visible when its name is its SHA-256 and it is a NAR's archive from
// its first byte to its last. A narinfo is published, in the catalog and then as a file, when its archive was uploaded to
// this cache, is what it says, its CA fits, and all that it refers to is there.
type Inbox struct {
	store   *Store
	catalog *catalog.Catalog
	opts    InboxOptions
	log     *slog.Logger
	xz      chan struct{} // one element for each xz decoder, for their dictionaries are large

	decoders chan struct{} // one element for each of the others
}

var _ store.Receiver = (*Inbox)(nil)

const (
	maxXZ       = 2               // archives in xz that are decoded at once
	maxDecoders = 16              // other archives that are
	maxQueue    = 2 * time.Minute // for which an upload waits for its turn: see patiently
	maxInfo     = 1 << 20         // bytes of a narinfo that is taken; one with a thousand references has 60 kB
)

// NewInbox returns an inbox of the cache that s reads, whose paths c knows.
func NewInbox(s *Store, c *catalog.Catalog, o *InboxOptions) *Inbox {
	b := &Inbox{store: s, catalog: c, log: slog.New(slog.DiscardHandler), xz: make(chan struct{}, maxXZ),
		decoders: make(chan struct{}, maxDecoders)}
	if o != nil {
		b.opts = *o
	}
	if b.opts.MaxArchive == 0 {
		b.opts.MaxArchive = DefaultMaxArchive
	}
	if b.opts.MaxNAR == 0 {
		b.opts.MaxNAR = DefaultMaxNAR
	}
	if b.opts.Lease == 0 {
		b.opts.Lease = DefaultLease
	}
	if b.opts.Logger != nil {
		b.log = b.opts.Logger
	}
	return b
}

func refuse(why store.Refusal, format string, args ...any) error {
	return &store.RefusedError{Why: why, Detail: fmt.Sprintf(format, args...)}
}

// Receive implements [store.Receiver].
func (b *Inbox) Receive(ctx context.Context, by, key string, content io.Reader) error {
	if hash, ok := narinfoKey(key); ok {
		return b.receiveInfo(ctx, by, hash, content)
	}
	if archiveKey.MatchString(key) {
		return b.receiveArchive(ctx, by, key, content)
	}
	if plainKeys.MatchString(key) {
		return b.receivePlain(ctx, key, content)
	}
	cache, rest, below := strings.Cut(key, "/")
	if below && (archiveKey.MatchString(rest) || plainKeys.MatchString(rest) || rest == "nix-cache-info") {
		return refuse(store.Invalid, "there is no cache %.100q below the one that takes this", cache)
	}
	return refuse(store.Invalid, "%.300q is no name of a file in a binary cache", key)
}

// Holds implements [store.Receiver].
func (b *Inbox) Holds(ctx context.Context, key string) (bool, error) {
	if !archiveKey.MatchString(key) {
		return false, nil
	}
	held, err := b.catalog.Holds(ctx, b.store.name, key)
	if err == nil && held {
		held, err = b.lies(ctx, key)
	}
	if err != nil || !held {
		return false, err
	}
	// The client takes the answer for a promise: nobody may delete the archive before it comes with the narinfo.
	_, err = b.catalog.BeginUpload(ctx, key, b.opts.Lease)
	if errors.Is(err, catalog.ErrDeleting) {
		return false, nil
	}
	return err == nil, err
}

// Missing returns those of the hash parts that are not in this cache, in the order given. The others stay for the time of a
// lease. The catalog alone is asked, in one go; it counts as it does for what is published: a path whose files are lost
// is there until fsck has found that out.
func (b *Inbox) Missing(ctx context.Context, hashes []narinfo.HashPart) ([]narinfo.HashPart, error) {
	return b.catalog.Keep(ctx, b.store.name, hashes, b.catalog.Now().Add(b.opts.Lease))
}

// lies reports whether an archive's file is there and has the right size. What was lost is uploaded again.
func (b *Inbox) lies(ctx context.Context, key string) (bool, error) {
	a, err := b.catalog.Archive(ctx, key)
	if errors.Is(err, catalog.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	o, err := b.store.files.Open(ctx, key)
	if err != nil {
		return false, ignoreNotFound(err)
	}
	state, err := o.State()
	return state.Size == a.FileSize, errors.Join(err, o.Close())
}

// Delete deletes the path whose narinfo has the key "HASHPART.narinfo", leased or not, and its archive unless that is
// needed by others. One that is not there is [store.ErrNotFound]; one that others refer to, or that is pinned, a
// [store.RefusedError] that names them.
func (b *Inbox) Delete(ctx context.Context, by, key string) error {
	hash, ok := narinfoKey(key)
	if !ok {
		return notFound(key)
	}
	err := b.catalog.DeletePath(ctx, b.store.name, hash, catalog.Deletion{Files: NewRemover(b.store.files), BreakLeases: true})
	if errors.Is(err, catalog.ErrNotFound) {
		return notFound(key)
	}
	if err != nil {
		return refusalOf(err)
	}
	b.log.Info("path deleted", "cache", b.store.name, "path", hash, "by", by)
	return nil
}

// View is the cache as those see it who push: what they are told is there stays for the time of a lease. A path whose
// file is there and which the catalog does not know is not there for them, so that their pushing it again mends it.
func (b *Inbox) View() store.Store { return view{b.store, b} }

type view struct {
	*Store
	inbox *Inbox
}

// Info implements [store.Store].
func (v view) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	info, err := v.Store.Info(ctx, hash)
	if err != nil {
		return nil, err
	}
	c := v.inbox.catalog
	missing, err := c.Lease(ctx, v.name, []narinfo.HashPart{hash}, c.Now().Add(v.inbox.opts.Lease))
	if err == nil && len(missing) > 0 {
		err = notFound(string(info.StorePath))
	}
	if err != nil {
		return nil, err
	}
	return info, nil
}

// receivePlain takes a listing, a log, a realisation or debug information. Nothing vouches for those: they are what a
// pusher says, replaced by what the next one says.
func (b *Inbox) receivePlain(ctx context.Context, key string, content io.Reader) error {
	if b.opts.Full != nil && b.opts.Full() {
		return refuse(store.Full, "this cache has no room")
	}
	if !isKey(key) || len(path.Base(key)) > maxName {
		return refuse(store.Invalid, "%.300q is no name of a file in a binary cache", key)
	}
	if strings.HasSuffix(key, ".doi") {
		text, err := readAtMost(content, maxRealisation, key)
		if err != nil {
			return err
		}
		if !json.Valid(text) {
			return refuse(store.Invalid, "%.300q is not JSON", key)
		}
		content = bytes.NewReader(text)
	}
	limited := &limitedReader{r: content, left: maxPlain}
	_, err := b.store.files.Put(ctx, b.store.key(key), limited, -1)
	if limited.exceeded {
		return tooLarge(key, maxPlain)
	}
	return err
}

func tooLarge(key string, most int64) error {
	return refuse(store.TooLarge, "%q has more than %d bytes", key, most)
}

// readAtMost reads what a pusher sends under a key.
func readAtMost(content io.Reader, most int64, key string) ([]byte, error) {
	limited := &limitedReader{r: content, left: most}
	text, err := io.ReadAll(limited)
	switch {
	case limited.exceeded:
		return nil, tooLarge(key, most)
	case err != nil:
		return nil, fmt.Errorf("bucketstore: %w", err)
	}
	return text, nil
}

// maxName is what file systems take as a name.
const maxName = 255

// maxPlain is the most bytes of a file that is neither archive nor narinfo.
const maxPlain = 256 << 20

// limitedReader fails behind a number of bytes.
type limitedReader struct {
	r        io.Reader
	left     int64
	exceeded bool
}

var errLimit = errors.New("bucketstore: too long")

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.exceeded {
		return 0, errLimit
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left+1)])
	if int64(n) > l.left {
		l.exceeded = true
		return 0, errLimit
	}
	l.left -= int64(n)
	return n, err
}

// receiveInfo publishes a path.
func (b *Inbox) receiveInfo(ctx context.Context, by string, hash narinfo.HashPart, content io.Reader) error {
	text, err := readAtMost(content, maxInfo, string(hash)+".narinfo")
	if err != nil {
		return err
	}
	info, err := narinfo.Parse(text)
	if err != nil {
		return refuse(store.Invalid, "%v", err)
	}
	return b.publish(ctx, by, hash, info)
}

func (b *Inbox) publish(ctx context.Context, by string, hash narinfo.HashPart, info *narinfo.Info) error {
	if err := b.check(hash, info); err != nil {
		return err
	}
	// Nobody replaces what others trust. A path that is damaged can be pushed again.
	now, err := b.current(ctx, hash)
	if err != nil {
		return err
	}
	if now != nil && (now.StorePath != info.StorePath || now.NarHash != info.NarHash) {
		return refuse(store.Needed, "%s is here, and has other content: it has to be deleted first", now.StorePath)
	}
	if info.FileHash.IsZero() || info.FileSize == 0 {
		if err := b.complete(ctx, info); err != nil {
			return err
		}
	}
	return b.announce(ctx, by, info, b.opts.Elsewhere, b.opts.Lease)
}

// complete adds what a narinfo does not say of its file.
func (b *Inbox) complete(ctx context.Context, info *narinfo.Info) error {
	a, err := b.catalog.Archive(ctx, info.URL)
	if errors.Is(err, catalog.ErrNotFound) {
		return refusalOf(catalog.ErrNoArchive) // as if another cache had it, which is nobody else's business
	}
	if err != nil {
		return err
	}
	if info.FileHash.IsZero() {
		info.FileHash, info.FileSize = a.FileHash, a.FileSize
	}
	if info.FileSize == 0 {
		info.FileSize = a.FileSize
	}
	return nil
}

// current returns what the cache has of a hash part, nil if that is nothing or damaged.
func (b *Inbox) current(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	info, err := b.store.Info(ctx, hash)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
		return nil, nil
	}
	return info, err
}

// announce publishes a path whose archive is there, and leases it. It adds our signatures to info.
func (b *Inbox) announce(ctx context.Context, by string, info *narinfo.Info, elsewhere Elsewhere, lease time.Duration) error {
	for _, key := range b.opts.Sign {
		info.Sign(key)
	}
	err := patiently(ctx, func() error {
		return b.catalog.Publish(ctx, catalog.Publication{
			Cache: b.store.name, Uploader: by, Info: info, Elsewhere: elsewhere, Lease: lease,
			Write: func(ctx context.Context) error { return b.writeInfo(ctx, info) },
		})
	})
	if err != nil {
		return refusalOf(err)
	}
	b.log.Info("path published", "cache", b.store.name, "path", info.StorePath, "by", by)
	return nil
}

// patiently does what may be in somebody else's way until it is not: Nix before 2.34 sends the body of a PUT no second
// time, so one that is told to come back fails the whole of what is being pushed.
func patiently(ctx context.Context, do func() error) error {
	deadline := time.Now().Add(maxQueue)
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second/2) {
		err := do()
		passes := errors.Is(err, catalog.ErrDeleting) || errors.Is(err, catalog.ErrPublishing)
		if !passes || time.Now().After(deadline) {
			return err
		}
		if err := pause.For(ctx, wait); err != nil {
			return err
		}
	}
}

// check refuses a narinfo that could not be served, or is not signed as asked for.
func (b *Inbox) check(hash narinfo.HashPart, info *narinfo.Info) error {
	switch {
	case info.StorePath.HashPart() != hash:
		return refuse(store.Invalid, "%s.narinfo is about %s", hash, info.StorePath)
	case info.StorePath.Dir() != b.store.StoreDir():
		return refuse(store.Invalid, "this cache is for paths in %s, not %s", b.store.StoreDir(), info.StorePath)
	case !archiveKey.MatchString(info.URL):
		return refuse(store.Invalid, "the URL %.300q is not nar/FILEHASH.nar[.EXT]", info.URL)
	}
	if err := checkAddress(info); err != nil {
		return err
	}
	if b.opts.Trusted == nil {
		return nil
	}
	if _, ok := info.VerifiedBy(b.opts.Trusted); !ok {
		return refuse(store.Untrusted, "%s has no signature of a key that this cache trusts", info.StorePath)
	}
	return nil
}

// checkAddress refuses a path that says to be content-addressed and is not: Nix takes such a path without a signature if
// its address fits. The hash in it is compared where it is the NAR's.
func checkAddress(info *narinfo.Info) error {
	if info.CA == "" {
		return nil
	}
	computed, err := info.ContentPath()
	switch {
	case err != nil:
		return refuse(store.Invalid, "%v", err)
	case computed != info.StorePath:
		return refuse(store.Invalid, "CA %s, with its references, makes the path %s, not %s", info.CA, computed, info.StorePath)
	case strings.HasPrefix(string(info.CA), "fixed:r:sha256:") && info.CA.Hash() != info.NarHash &&
		!slices.Contains(info.References, info.StorePath): // which is hashed without what refers to itself
		return refuse(store.Invalid, "CA %s of %s is of another content than NarHash %s", info.CA, info.StorePath, info.NarHash)
	}
	return nil
}

func (b *Inbox) writeInfo(ctx context.Context, info *narinfo.Info) error {
	stored := *info
	stored.URL = b.store.archiveURL(info.URL)
	text, err := stored.MarshalText()
	if err != nil {
		return fmt.Errorf("bucketstore: %w", err)
	}
	_, err = b.store.files.Put(ctx, b.store.key(string(info.StorePath.HashPart())+".narinfo"), bytes.NewReader(text), int64(len(text)))
	return err
}

// refusalOf tells what the uploader can mend from what it cannot.
func refusalOf(err error) error {
	if missing, ok := errors.AsType[*catalog.MissingError](err); ok {
		// Nix remembers for a month what it has seen in a cache, and does not push that.
		return refuse(store.Incomplete, "%v (a Nix that has seen it here before pushes it with --refresh)", missing)
	}
	if mismatch, ok := errors.AsType[*catalog.MismatchError](err); ok {
		return refuse(store.Invalid, "%v", mismatch)
	}
	if kept, ok := errors.AsType[*catalog.KeptError](err); ok {
		return refuse(store.Needed, "%v", kept)
	}
	switch {
	case errors.Is(err, catalog.ErrNoArchive):
		return refuse(store.Incomplete, "upload the archive first")
	case errors.Is(err, catalog.ErrDeleting), errors.Is(err, catalog.ErrPublishing), errors.Is(err, catalog.ErrLeaseLost):
		return refuse(store.Busy, "%v", err)
	}
	return err
}
