package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/voidnxlab/nixtrap/store/bucketstore"
)

const (
	headSize  = 256 << 10 // what Open reads
	allowance = 1 << 20   // bytes after which a connection that breaks again is counted anew
)

var errChanged = errors.New("the object was replaced or removed while it was read")

// Open opens the object under key, with one request. ctx is that of its reads too. State costs nothing: an object is
// never written to, only replaced, so its state is the one that Open saw, and no read yields bytes of another.
func (b *Bucket) Open(ctx context.Context, key string) (bucketstore.Object, error) {
	name, ok := b.name(key)
	if !ok {
		return nil, notFound(key)
	}
	var o *object
	err := b.retry(ctx, b.stall, func(ctx context.Context) error {
		var err error
		o, err = b.begin(ctx, name)
		return err
	})
	if isAbsent(err) {
		return nil, notFound(key)
	}
	if err != nil {
		return nil, fmt.Errorf("s3: open %q: %w", key, describe(err))
	}
	o.ctx, o.key = ctx, key
	return o, nil
}

// object reads from head first, then from a body that goes from its offset to the end.
type object struct {
	bucket    *Bucket
	ctx       context.Context // Open's: Read is given none
	key, name string
	state     bucketstore.State
	etag      string
	head      []byte

	offset int64
	err    error // sticky

	body   *body // nil: none
	broken int   // how often one broke since mended
	mended int64 // the offset at which broken was last 0
}

// begin asks for an object's head.
func (b *Bucket) begin(ctx context.Context, name string) (*object, error) {
	var options minio.GetObjectOptions
	if err := options.SetRange(0, headSize-1); err != nil {
		return nil, permanent{err}
	}
	r, info, header, err := b.core.GetObject(ctx, b.bucket, name, options)
	if hasStatus(err, http.StatusRequestedRangeNotSatisfiable) {
		return b.beginEmpty(ctx, name)
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	size := info.Size
	if text := header.Get("Content-Range"); text != "" {
		var from int64
		if from, size, err = parseContentRange(text); err != nil || from != 0 {
			return nil, errNotS3
		}
	}
	if size < 0 || info.ETag == "" {
		return nil, errNotS3
	}
	head := make([]byte, min(size, headSize))
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	return &object{
		bucket: b, name: name, etag: info.ETag, head: head,
		state: state(size, info.LastModified, info.ETag, info.VersionID),
	}, nil
}

// beginEmpty is for an object of which no range can be had.
func (b *Bucket) beginEmpty(ctx context.Context, name string) (*object, error) {
	state, _, err := b.stat(ctx, name)
	if err != nil {
		return nil, err
	}
	if state.Size != 0 {
		return nil, errChanged // by now; another attempt gets a range of it
	}
	return &object{bucket: b, name: name, state: state}, nil
}

// parseContentRange reads "bytes FROM-TO/SIZE".
func parseContentRange(text string) (from, size int64, err error) {
	span, ok := strings.CutPrefix(text, "bytes ")
	span, total, ok2 := strings.Cut(span, "/")
	first, _, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, errNotS3
	}
	from, err1 := strconv.ParseInt(first, 10, 64)
	size, err2 := strconv.ParseInt(total, 10, 64)
	return from, size, errors.Join(err1, err2)
}

// State returns the state of the object that was opened.
func (o *object) State() (bucketstore.State, error) { return o.state, nil }

// Seek makes no request.
func (o *object) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += o.offset
	case io.SeekEnd:
		offset += o.state.Size
	default:
		return o.offset, fmt.Errorf("s3: seek from %d", whence)
	}
	if offset < 0 {
		return o.offset, errors.New("s3: seek before the beginning")
	}
	if offset != o.offset {
		o.broken, o.mended = 0, offset
	}
	o.offset = offset
	return offset, nil
}

// Close gives up what was asked for and not read. A second Close does nothing.
func (o *object) Close() error {
	o.err = errors.New("s3: object is closed")
	o.head = nil
	o.closeBody()
	return nil
}

func (o *object) closeBody() {
	if o.body != nil {
		o.body.close()
		o.body = nil
	}
}

func (o *object) Read(p []byte) (int, error) {
	switch {
	case o.err != nil:
		return 0, o.err
	case len(p) == 0:
		return 0, nil
	case o.offset >= o.state.Size:
		return 0, io.EOF
	case o.offset < int64(len(o.head)):
		n := copy(p, o.head[o.offset:])
		o.offset += int64(n)
		return n, nil
	}
	n, err := o.readBody(p[:min(int64(len(p)), o.state.Size-o.offset)])
	o.offset += int64(n)
	if err != nil {
		o.closeBody()
		o.err = fmt.Errorf("s3: read %q at %d: %w", o.key, o.offset, describe(err))
	}
	return n, o.err
}

// readBody reads some bytes at the offset, and goes on with another connection where one breaks.
func (o *object) readBody(p []byte) (int, error) {
	for {
		n, err := o.readOnce(p)
		if n > 0 {
			return n, nil // an error comes again, or the next connection has what is missing
		}
		if cause := o.ctx.Err(); cause != nil {
			return 0, cause
		}
		o.closeBody()
		if o.offset-o.mended >= allowance {
			o.broken, o.mended = 0, o.offset
		}
		o.broken++
		if errors.Is(err, errChanged) || o.broken >= attempts || !retryable(err) {
			return 0, err
		}
		if err := o.bucket.wait(o.ctx, o.broken, err); err != nil {
			return 0, err
		}
	}
}

func (o *object) readOnce(p []byte) (int, error) {
	if o.body != nil && o.body.offset != o.offset {
		o.closeBody()
	}
	if o.body == nil {
		var err error
		if o.body, err = o.ask(); err != nil {
			return 0, err
		}
	}
	return o.body.read(p)
}

// ask asks for all from the offset on, of the object that was opened.
func (o *object) ask() (*body, error) {
	ctx, cancel := context.WithCancel(o.ctx)
	timer := time.AfterFunc(o.bucket.stall, cancel)
	r, err := o.request(ctx)
	if !timer.Stop() && err == nil {
		err = errors.Join(errStalled, r.Close())
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errStalled
		}
		cancel()
		return nil, err
	}
	return &body{r: r, offset: o.offset, cancel: cancel, timer: timer, stall: o.bucket.stall}, nil
}

func (o *object) request(ctx context.Context) (io.ReadCloser, error) {
	var options minio.GetObjectOptions
	if err := errors.Join(options.SetRange(o.offset, 0), options.SetMatchETag(o.etag)); err != nil {
		return nil, permanent{err}
	}
	r, info, header, err := o.bucket.core.GetObject(ctx, o.bucket.bucket, o.name, options)
	if hasStatus(err, http.StatusPreconditionFailed) || hasStatus(err, http.StatusRequestedRangeNotSatisfiable) ||
		isAbsent(err) {
		return nil, errChanged
	}
	if err != nil {
		return nil, err
	}
	from, size, err := parseContentRange(header.Get("Content-Range"))
	switch {
	case info.ETag != o.etag:
		err = errChanged // by a server that heeds no If-Match
	case err != nil || from != o.offset || size != o.state.Size:
		err = errNotS3
	default:
		return r, nil
	}
	return nil, errors.Join(err, r.Close())
}

// body is an answer's, read with a limit for each wait.
type body struct {
	r      io.ReadCloser
	offset int64
	cancel context.CancelFunc
	timer  *time.Timer // cancels; stopped between reads
	stall  time.Duration
}

func (b *body) read(p []byte) (int, error) {
	b.timer.Reset(b.stall)
	n, err := b.r.Read(p)
	b.offset += int64(n)
	if !b.timer.Stop() && err != nil {
		return n, errStalled
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the caller asks for no more than there is
	}
	return n, err
}

func (b *body) close() {
	b.timer.Stop()
	b.cancel()
	b.r.Close()
}
