package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

const pageSize = 1000

// List yields the objects whose keys begin with prefix, in the server's order. Objects whose keys are not clean
// paths, such as the empty ones that stand for folders, are left out.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[bucketstore.Entry, error] {
	return func(yield func(bucketstore.Entry, error) bool) {
		for info, err := range b.objects(ctx, b.folder+prefix, pageSize) {
			if err != nil {
				yield(bucketstore.Entry{}, fmt.Errorf("s3: list %q: %w", prefix, err))
				return
			}
			key := strings.TrimPrefix(info.Key, b.folder)
			if !fs.ValidPath(key) {
				continue
			}
			if !yield(bucketstore.Entry{Key: key, Size: info.Size, Modified: info.LastModified}, nil) {
				return
			}
		}
	}
}

// objects lists, and where it fails goes on behind the last object that it yielded, if the server sorts.
func (b *Bucket) objects(ctx context.Context, prefix string, page int) iter.Seq2[minio.ObjectInfo, error] {
	return func(yield func(minio.ObjectInfo, error) bool) {
		l := listing{Bucket: b, prefix: prefix, page: page, yield: yield, sorted: true}
		for attempt := 1; ; attempt++ {
			after := l.last
			err := l.run(ctx)
			if err == nil {
				return
			}
			if l.last != after {
				attempt = 1
			}
			if ctx.Err() == nil && attempt < attempts && retryable(err) && l.sorted {
				if err = b.wait(ctx, attempt, err); err == nil {
					continue
				}
			}
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			yield(minio.ObjectInfo{}, describe(err))
			return
		}
	}
}

type listing struct {
	*Bucket
	prefix string
	page   int
	yield  func(minio.ObjectInfo, error) bool
	last   string // the key yielded last; empty: none
	sorted bool   // as all of S3's but directory buckets
}

// run lists what is behind last, as far as it gets.
func (l *listing) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(l.stall, cancel)
	defer timer.Stop()
	for info := range l.core.ListObjectsIter(ctx, l.bucket, minio.ListObjectsOptions{
		Prefix: l.prefix, Recursive: true, StartAfter: l.last, MaxKeys: l.page, FetchOwner: new(false),
	}) {
		if !timer.Stop() {
			return errStalled
		}
		if info.Err != nil {
			return info.Err
		}
		if !strings.HasPrefix(info.Key, l.prefix) {
			return errNotS3
		}
		l.sorted = l.sorted && info.Key > l.last
		l.last = info.Key
		if !l.yield(info, nil) {
			return nil
		}
		timer.Reset(l.stall)
	}
	if ctx.Err() != nil {
		return errStalled // minio-go ends the list without a word
	}
	return nil
}

// AbortIncomplete removes multipart uploads, and their parts, that began more than olderThan ago: what is left of Puts
// whose process or server died. Uploads that are still going on must not be that old; a day is safe.
// It returns how many it removed. Where Folder is empty other programs' uploads to the bucket count as ours.
func (b *Bucket) AbortIncomplete(ctx context.Context, olderThan time.Duration) (int, error) {
	limit := time.Now().Add(-olderThan)
	removed := 0
	for u, err := range b.uploads(ctx) {
		if err != nil {
			return removed, fmt.Errorf("s3: list incomplete uploads: %w", describe(err))
		}
		if u.Initiated.After(limit) {
			continue
		}
		err := b.retry(ctx, b.stall, func(ctx context.Context) error {
			return b.core.AbortMultipartUpload(ctx, b.bucket, u.Key, u.UploadID)
		})
		if hasStatus(err, http.StatusNotFound) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return removed, fmt.Errorf("s3: abort an upload of %q: %w", u.Key, describe(err))
		}
		removed++
	}
	return removed, nil
}

func (b *Bucket) uploads(ctx context.Context) iter.Seq2[minio.ObjectMultipartInfo, error] {
	return func(yield func(minio.ObjectMultipartInfo, error) bool) {
		var page minio.ListMultipartUploadsResult
		for {
			key, id := page.NextKeyMarker, page.NextUploadIDMarker
			err := b.retry(ctx, b.stall, func(ctx context.Context) error {
				var err error
				page, err = b.core.ListMultipartUploads(ctx, b.bucket, b.folder, key, id, "", pageSize)
				return err
			})
			if err == nil && page.IsTruncated && page.NextKeyMarker == key && page.NextUploadIDMarker == id {
				err = errors.New("the server's list goes round in circles")
			}
			if err != nil {
				yield(minio.ObjectMultipartInfo{}, err)
				return
			}
			for _, u := range page.Uploads {
				if !yield(u, nil) {
					return
				}
			}
			if !page.IsTruncated {
				return
			}
		}
	}
}
