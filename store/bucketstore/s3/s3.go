// Package s3 keeps a binary cache's files in an S3-compatible bucket: a bucketstore.Files.
//
// Most callers want [Open], with [Options] of their own or what [ParseURL] makes of "s3://BUCKET/FOLDER?endpoint=…".
//
// # What is asked of the server
//
// AWS S3's protocol, signature 4: GET with Range and If-Match, HEAD, PUT, DELETE, ListObjectsV2 and multipart uploads.
// The credentials need GetObject, PutObject, DeleteObject, ListBucket, ListBucketMultipartUploads and
// AbortMultipartUpload; for reading GetObject and ListBucket. Without ListBucket S3 answers 403 for what is absent, and
// absence is never read into that.
//
// # Absence
//
// A file is absent if the answer is 404 and has S3's own text with the code NoSuchKey. A bucket that is not there, a
// refusal, a 404 of a proxy, a server that is busy: all of these are other errors.
//
// # Reading
//
// Open asks for the first 256 KiB, which is one request and all there is of a narinfo; what follows is asked for when
// it is read, from where it is read, under If-Match. So all bytes of one [bucketstore.Object] are of one state, and one
// that is replaced or removed meanwhile ends in an error. A connection that breaks is resumed where it broke, five
// times in each MiB.
//
// # Writing
//
// What fits into one part goes up as one PUT, anything else as a multipart upload, which publishes nothing before
// its last request; that one is made only when content has ended as it should. If anything fails the upload is aborted.
// Where that fails too, its parts lie there unseen until [Bucket.AbortIncomplete]. Each request has the SHA-256 of its
// body, which the server checks, and what lies there after the last is looked at: its size must be right.
//
// Where a Put's ctx ends, requests that are on their way still get up to 10 s to their end: of one that is cut nobody can
// say what it did. So a Put may succeed although its ctx has ended.
//
// Each file has a random mark among its metadata, by which Put knows its own after an answer was lost. So Put fails
// only if its content is not there; but for a server that can't be reached any more, or that goes on with a request
// after its connection has broken. The error says so where that may be.
//
// # Retries
//
// Each request is one that may be made twice. It is made up to five times, if the answer is 408, 429 or 5xx (not 501)
// or none: after 0.2, 0.4, 0.8 and 1.6 s, half of that at random, and five times as long where the server asked to slow
// down. An answer, or
// the next bytes either way, may take 30 s, and the answer to a multipart upload's last request ten times as long.
//
// # Limits
//
// A key has at most 1024 bytes with the folder. A file has at most 10000 parts: 78 GiB with the default part size.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/semaphore"

	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

// Bucket is a folder of a bucket, or all of it. Safe for concurrent use.
type Bucket struct {
	core   minio.Core
	bucket string
	folder string // ends with a slash unless it is empty

	partSize int
	memory   *semaphore.Weighted // of part buffers
	buffers  sync.Pool           // of *[]byte, partSize long

	stall  time.Duration // for which an answer or its next bytes are awaited
	pause  time.Duration // before the second attempt
	closer func()
}

var _ bucketstore.Files = (*Bucket)(nil)

// Open connects to a bucket, and sees to it that it is there and may be listed.
// The caller closes it when it is used no more.
func Open(ctx context.Context, o *Options) (*Bucket, error) {
	options, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	host, secure, err := splitEndpoint(options.Endpoint)
	if err != nil {
		return nil, err
	}
	transport, closer := options.transport()
	core, err := minio.NewCore(host, &minio.Options{
		Creds:        options.credentials(),
		Secure:       secure,
		Transport:    transport,
		Region:       options.Region,
		BucketLookup: options.Addressing.lookup(),
		MaxRetries:   1, // retry knows which request may be made again, and after what
	})
	if err != nil {
		return nil, fmt.Errorf("s3: endpoint %q: %v", host, err)
	}
	b := &Bucket{
		core:     *core,
		bucket:   options.Bucket,
		partSize: options.PartSize,
		memory:   semaphore.NewWeighted(int64(options.Memory)),
		stall:    options.stall,
		pause:    options.pause,
		closer:   closer,
	}
	b.buffers.New = func() any { return new(make([]byte, b.partSize)) }
	if options.Folder != "" {
		b.folder = options.Folder + "/"
	}
	if err := b.probe(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// probe lists, for an answer to HEAD would not say what is wrong.
func (b *Bucket) probe(ctx context.Context) error {
	for _, err := range b.objects(ctx, b.folder, 1) {
		if err != nil {
			return fmt.Errorf("s3: bucket %q: %w", b.bucket, err)
		}
		break
	}
	return nil
}

// Close lets go of idle connections. Open objects stay usable. Its error is always nil.
func (b *Bucket) Close() error {
	b.closer()
	return nil
}

// name returns the object's key in the bucket, and false if there can't be one.
func (b *Bucket) name(key string) (string, bool) {
	name := b.folder + key
	ok := fs.ValidPath(key) && key != "." && len(name) <= 1024 && utf8.ValidString(name) &&
		strings.TrimSpace(name) != "" && !strings.ContainsRune(name, 0)
	return name, ok
}

func notFound(key string) error {
	return fmt.Errorf("s3: %q: %w", key[:min(len(key), 300)], store.ErrNotFound)
}

func state(size int64, modified time.Time, etag, versionID string) bucketstore.State {
	return bucketstore.State{Size: size, Modified: modified, Version: strings.TrimSpace(etag + " " + versionID)}
}

// stat returns the state of what lies under an object's key, and the mark that it has.
func (b *Bucket) stat(ctx context.Context, name string) (bucketstore.State, string, error) {
	info, err := b.core.StatObject(ctx, b.bucket, name, minio.StatObjectOptions{})
	if err != nil {
		return bucketstore.State{}, "", err
	}
	if info.Size < 0 || info.ETag == "" {
		return bucketstore.State{}, "", errNotS3
	}
	return state(info.Size, info.LastModified, info.ETag, info.VersionID), info.Headers.Get(markHeader), nil
}

// Remove removes the object under key. In a bucket with versions the older ones stay.
func (b *Bucket) Remove(ctx context.Context, key string) error {
	name, ok := b.name(key)
	if !ok {
		return nil
	}
	err := b.retryWrite(ctx, b.stall, func(ctx context.Context, _ func()) error {
		return b.core.RemoveObject(ctx, b.bucket, name, minio.RemoveObjectOptions{})
	})
	if err != nil && !isAbsent(err) {
		return fmt.Errorf("s3: remove %q: %w", key, describe(err))
	}
	return nil
}

// ownTransport is for those who gave none.
func ownTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true // bytes are what lies there
	t.MaxIdleConnsPerHost = 64  // all go to one host
	return t
}
