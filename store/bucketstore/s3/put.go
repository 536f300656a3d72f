package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

const (
	markHeader      = "X-Amz-Meta-Nixtrap-Put"
	partsInFlight   = 3  // of one Put, beside the one that is being filled
	completePatient = 10 // times as long as another request: parts may have to be copied
	patience        = 10 * time.Second
)

// Put stores content; see the package comment. Types and, below nar/, Cache-Control are those of a binary cache.
func (b *Bucket) Put(ctx context.Context, key string, content io.Reader, size int64) (bucketstore.State, error) {
	name, ok := b.name(key)
	switch {
	case !ok:
		return bucketstore.State{}, fmt.Errorf("s3: put: %q can't be a key", key[:min(len(key), 300)])
	case size > int64(b.partSize)*MaxParts:
		return bucketstore.State{}, fmt.Errorf("s3: put %q: %d bytes are more than %d parts of %d bytes",
			key, size, MaxParts, b.partSize)
	}
	u := &upload{
		Bucket: b, key: key, name: name, mark: rand.Text(),
		parts: parts{content: content, want: size},
	}
	state, err := u.run(ctx)
	if err != nil {
		return bucketstore.State{}, fmt.Errorf("s3: put %q: %w", key, describe(err))
	}
	return state, nil
}

// upload is one Put.
type upload struct {
	*Bucket
	key, name string
	mark      string
	parts     parts
}

// part is some of the content, in memory that was counted.
type part struct {
	bytes  []byte
	buffer *[]byte // from the pool; nil: its own
	last   bool
	weight int64
}

func (u *upload) run(ctx context.Context) (bucketstore.State, error) {
	first, err := u.next(ctx)
	if err != nil {
		return bucketstore.State{}, err
	}
	if first.last {
		defer u.release(first)
		return u.single(ctx, first.bytes)
	}
	return u.multipart(ctx, first)
}

// next reads a part of the content, as soon as there is memory for it.
func (u *upload) next(ctx context.Context) (part, error) {
	p := part{weight: int64(u.partSize)}
	if left := u.parts.want - u.parts.read; u.parts.want >= 0 && left < p.weight {
		p.weight = left
	}
	if err := u.memory.Acquire(ctx, p.weight); err != nil {
		return part{}, err
	}
	if p.weight < int64(u.partSize) {
		p.bytes = make([]byte, p.weight)
	} else {
		p.buffer = u.buffers.Get().(*[]byte)
		p.bytes = *p.buffer
	}
	n, last, err := u.parts.fill(ctx, p.bytes)
	if err != nil {
		u.release(p)
		return part{}, err
	}
	p.bytes, p.last = p.bytes[:n], last
	return p, nil
}

func (u *upload) release(p part) {
	if p.buffer != nil {
		u.buffers.Put(p.buffer)
	}
	u.memory.Release(p.weight)
}

// single stores content that is one part.
func (u *upload) single(ctx context.Context, content []byte) (bucketstore.State, error) {
	sum := sha256.Sum256(content)
	options := u.options()
	options.DisableContentSha256 = true // the one of the whole is sent, and no chunks' own
	var stored minio.UploadInfo
	err := u.retryWrite(ctx, u.stall, func(ctx context.Context, progress func()) error {
		body := &lent{r: bytes.NewReader(content), progress: progress}
		defer body.Close()
		var err error
		stored, err = u.core.PutObject(ctx, u.bucket, u.name, body, int64(len(content)), "", hex.EncodeToString(sum[:]), options)
		return err
	})
	return u.settle(ctx, stored, err)
}

// settle looks at what lies there now. err is what came of the request that was to publish the content.
func (u *upload) settle(ctx context.Context, stored minio.UploadInfo, err error) (bucketstore.State, error) {
	if err != nil {
		return u.settleFailed(ctx, err)
	}
	var now bucketstore.State
	var mark string
	lookErr := u.retry(ctx, u.stall, func(ctx context.Context) error {
		var err error
		now, mark, err = u.stat(ctx, u.name)
		return err
	})
	acknowledged := state(u.parts.read, time.Time{}, stored.ETag, stored.VersionID)
	switch {
	case hasStatus(lookErr, http.StatusNotFound):
		return bucketstore.State{}, errors.New("the server took the object, and has none")
	case lookErr != nil:
		// It was acknowledged, so it is there. A state without a time equals none of a later Open.
		return acknowledged, nil
	case mark != u.mark && now.Version != acknowledged.Version:
		return acknowledged, nil // already replaced by another's
	case now.Size != u.parts.read:
		return bucketstore.State{}, fmt.Errorf("the server has %d of %d bytes", now.Size, u.parts.read)
	default:
		return now, nil
	}
}

// settleFailed finds out whether only the answer was lost.
func (u *upload) settleFailed(ctx context.Context, err error) (bucketstore.State, error) {
	now, ours, lookErr := u.look(ctx)
	switch {
	case ours:
		return now, nil
	case lookErr != nil:
		return bucketstore.State{}, fmt.Errorf("%w (and what is there now can't be told: %v)", describe(err), describe(lookErr))
	default:
		return bucketstore.State{}, err
	}
}

// look looks once, even for one who has left.
func (u *upload) look(ctx context.Context) (now bucketstore.State, ours bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(patience, u.stall))
	defer cancel()
	now, mark, err := u.stat(ctx, u.name)
	if hasStatus(err, http.StatusNotFound) {
		return now, false, nil
	}
	return now, err == nil && mark == u.mark && now.Size == u.parts.read, err
}

// multipart stores content of several parts.
func (u *upload) multipart(ctx context.Context, first part) (bucketstore.State, error) {
	var id string
	err := u.retryWrite(ctx, u.stall, func(ctx context.Context, _ func()) error {
		var err error
		if id, err = u.core.NewMultipartUpload(ctx, u.bucket, u.name, u.options()); err == nil && id == "" {
			err = errNotS3
		}
		return err
	})
	if err != nil {
		u.release(first)
		return bucketstore.State{}, err
	}
	complete, err := u.sendParts(ctx, id, first)
	if err != nil {
		return bucketstore.State{}, errors.Join(describe(err), u.abort(ctx, id))
	}
	stored, err := u.complete(ctx, id, complete)
	if err == nil {
		return u.settle(ctx, stored, nil)
	}
	// Once it is aborted it can't be completed any more, so the look tells.
	abortErr := u.abort(ctx, id)
	state, err := u.settleFailed(ctx, err)
	if err != nil {
		return state, errors.Join(describe(err), abortErr)
	}
	return state, nil
}

// sendParts sends all parts, some side by side. It returns when nothing is on its way any more: one failure ends the
// reading of content, and lets those that are on their way arrive.
func (u *upload) sendParts(ctx context.Context, id string, p part) ([]minio.CompletePart, error) {
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var g errgroup.Group
	g.SetLimit(partsInFlight)
	var sent []*minio.CompletePart
	var err error
	for {
		done := &minio.CompletePart{PartNumber: len(sent) + 1}
		sent = append(sent, done)
		current := p
		g.Go(func() (err error) {
			defer u.release(current)
			done.ETag, err = u.send(ctx, id, done.PartNumber, current.bytes)
			if err != nil {
				stop(err)
			}
			return err
		})
		if current.last {
			break
		}
		if len(sent) == MaxParts {
			err = fmt.Errorf("content has more than %d parts of %d bytes", MaxParts, u.partSize)
			break
		}
		if p, err = u.next(reading); err != nil {
			break
		}
	}
	if sendErr := g.Wait(); sendErr != nil {
		return nil, sendErr // which is why reading was stopped, if it was
	}
	if err != nil {
		return nil, err
	}
	all := make([]minio.CompletePart, len(sent))
	for i, done := range sent {
		all[i] = *done
	}
	return all, nil
}

func (u *upload) send(ctx context.Context, id string, number int, content []byte) (etag string, err error) {
	sum := sha256.Sum256(content)
	err = u.retryWrite(ctx, u.stall, func(ctx context.Context, progress func()) error {
		body := &lent{r: bytes.NewReader(content), progress: progress}
		defer body.Close()
		sent, err := u.core.PutObjectPart(ctx, u.bucket, u.name, id, number, body, int64(len(content)),
			minio.PutObjectPartOptions{Sha256Hex: hex.EncodeToString(sum[:]), DisableContentSha256: true})
		if etag = sent.ETag; err == nil && etag == "" {
			err = errNotS3
		}
		return err
	})
	return etag, err
}

// lent reads a buffer that will be another's: net/http may go on reading a body after it has answered.
type lent struct {
	progress func()

	mu sync.Mutex
	r  *bytes.Reader // nil: taken back; guarded by mu
}

func (l *lent) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil {
		return 0, errors.New("s3: request has ended")
	}
	l.progress()
	return l.r.Read(p)
}

// Close takes the buffer back.
func (l *lent) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r = nil
	return nil
}

// complete publishes. A second attempt after a lost answer finds no such upload: then what is there decides.
func (u *upload) complete(ctx context.Context, id string, all []minio.CompletePart) (minio.UploadInfo, error) {
	var stored minio.UploadInfo
	err := u.retryWrite(ctx, completePatient*u.stall, func(ctx context.Context, _ func()) error {
		var err error
		stored, err = u.core.CompleteMultipartUpload(ctx, u.bucket, u.name, id, all, minio.PutObjectOptions{})
		return err
	})
	return stored, err
}

// abort removes an upload's parts, even for one who has left.
func (u *upload) abort(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.stall)
	defer cancel()
	err := u.retry(ctx, min(patience, u.stall), func(ctx context.Context) error {
		return u.core.AbortMultipartUpload(ctx, u.bucket, u.name, id)
	})
	if err == nil || hasStatus(err, http.StatusNotFound) {
		return nil
	}
	return fmt.Errorf("its parts stay, until AbortIncomplete: %v", describe(err))
}

func (u *upload) options() minio.PutObjectOptions {
	o := minio.PutObjectOptions{
		ContentType:  contentType(u.key),
		UserMetadata: map[string]string{markHeader: u.mark},
	}
	if strings.HasPrefix(u.key, "nar/") {
		o.CacheControl = "public, max-age=31536000, immutable" // an archive is named by its hash
	}
	return o
}

// contentType returns what a server of a binary cache says of such a file.
func contentType(key string) string {
	folder, _, _ := strings.Cut(key, "/")
	switch {
	case key == "nix-cache-info":
		return "text/x-nix-cache-info"
	case folder == "nar":
		return "application/x-nix-nar"
	case folder == "log":
		return "text/plain; charset=utf-8"
	case folder == "debuginfo":
		return "application/json"
	}
	switch path.Ext(key) {
	case ".narinfo":
		return "text/x-nix-narinfo"
	case ".ls", ".doi":
		return "application/json"
	default:
		return "application/octet-stream"
	}
}

// parts cuts content into parts, and knows with each whether it is the last.
type parts struct {
	content io.Reader
	want    int64 // -1: not known
	read    int64 // handed out

	ahead    [1]byte // read to see whether there is more
	hasAhead bool
}

// fill fills p as far as content goes. last: there is nothing behind it. Content that is longer or shorter than
// wanted is an error, and so is any that it ends with other than a bare io.EOF.
func (s *parts) fill(ctx context.Context, p []byte) (n int, last bool, err error) {
	if s.hasAhead && len(p) > 0 {
		n = copy(p, s.ahead[:])
		s.hasAhead = false
	}
	for n < len(p) && !last {
		var k int
		k, last, err = s.readSome(ctx, p[n:])
		n += k
		if err != nil {
			return n, false, err
		}
	}
	if !last {
		var k int
		if k, last, err = s.readSome(ctx, s.ahead[:]); err != nil {
			return n, false, err
		}
		s.hasAhead = k > 0
		last = last && k == 0
	}
	s.read += int64(n)
	switch {
	case s.want < 0:
	case last && s.read != s.want:
		return n, false, fmt.Errorf("content ended after %d of %d bytes", s.read, s.want)
	case !last && s.read >= s.want:
		return n, false, fmt.Errorf("content has more than the %d bytes that were promised", s.want)
	}
	return n, last, nil
}

// readSome reads at least one byte unless content ends.
func (s *parts) readSome(ctx context.Context, p []byte) (n int, last bool, err error) {
	for range 100 {
		if err := ctx.Err(); err != nil {
			return 0, false, err
		}
		n, err := s.content.Read(p)
		if err == io.EOF { // one that is wrapped is an error of content's
			return n, true, nil
		}
		if err != nil {
			return n, false, fmt.Errorf("content: %w", err)
		}
		if n > 0 {
			return n, false, nil
		}
	}
	return 0, false, io.ErrNoProgress
}
