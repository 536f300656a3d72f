package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/voidnxlab/nixtrap/internal/pause"
)

const attempts = 5

var (
	errNotS3   = errors.New("the answer is not one of an S3 server")
	errStalled = errors.New("no answer in time")
)

// permanent is an error that another attempt would not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// retry calls f, which must be a request that may be made twice, until it succeeds or another attempt is no use.
// Each attempt has so much time, or any where that is 0. The error is f's, or ctx's.
func (b *Bucket) retry(ctx context.Context, timeout time.Duration, f func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		err := try(ctx, timeout, f)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if attempt == attempts || !retryable(err) {
			return err
		}
		if err := b.wait(ctx, attempt, err); err != nil {
			return err
		}
	}
}

// retryWrite is retry for a request that changes something. timeout is how long it may go without progress, which is an
// answer or a call of the function that f is given. Where ctx ends meanwhile the attempt still gets some time to its
// end: of one that is cut nobody can say what it did, and an abort that overtakes a part may leave it behind.
func (b *Bucket) retryWrite(ctx context.Context, timeout time.Duration, f func(context.Context, func()) error) error {
	return b.retry(ctx, 0, func(context.Context) error {
		lingering, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		stalled := time.AfterFunc(timeout, cancel)
		defer stalled.Stop()
		stop := context.AfterFunc(ctx, func() {
			select {
			case <-time.After(min(patience, b.stall)):
				cancel()
			case <-lingering.Done():
			}
		})
		defer stop()
		err := f(lingering, func() { stalled.Reset(timeout) })
		if err != nil && lingering.Err() != nil {
			return errStalled
		}
		return err
	})
}

func try(ctx context.Context, timeout time.Duration, f func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	limited, cancel := ctx, context.CancelFunc(func() {})
	if timeout > 0 {
		limited, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()
	err := f(limited)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err() // whatever the request made of it
	case limited.Err() != nil:
		return errStalled
	default:
		return err
	}
}

// wait waits before the attempt that follows.
func (b *Bucket) wait(ctx context.Context, attempt int, err error) error {
	d := b.pause << (attempt - 1)
	if isSlowDown(err) {
		d *= 5
	}
	return pause.For(ctx, d/2+rand.N(d/2+1))
}

func isSlowDown(err error) bool {
	response, ok := errors.AsType[minio.ErrorResponse](err)
	return ok && (response.StatusCode == http.StatusServiceUnavailable || response.StatusCode == http.StatusTooManyRequests)
}

func retryable(err error) bool {
	if response, ok := errors.AsType[minio.ErrorResponse](err); ok {
		// An error may come under status 200, for S3 begins some answers before it knows.
		codes := []string{"InternalError", "SlowDown", "RequestTimeout", "ServiceUnavailable"}
		status := response.StatusCode
		return slices.Contains(codes, response.Code) || status >= 500 && status != http.StatusNotImplemented ||
			status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
	}
	return !isPermanent(err)
}

func isPermanent(err error) bool {
	if errors.Is(err, errNotS3) {
		return true
	}
	if _, ok := errors.AsType[permanent](err); ok {
		return true
	}
	if _, ok := errors.AsType[credentialsError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

// isAbsent reports whether S3 itself said that there is no such object. minio-go makes NoSuchKey out of every 404
// without S3's text, which a proxy, or HEAD where there is no bucket, may give as well.
func isAbsent(err error) bool {
	response, ok := errors.AsType[minio.ErrorResponse](err)
	return ok && response.StatusCode == http.StatusNotFound && response.Code == minio.NoSuchKey &&
		response.XMLName.Local == "Error"
}

func hasStatus(err error, status int) bool {
	response, ok := errors.AsType[minio.ErrorResponse](err)
	return ok && response.StatusCode == status
}

// describe makes of an answer a text that has all that an operator needs. It keeps other errors, and what they wrap.
func describe(err error) error {
	response, ok := err.(minio.ErrorResponse) //nolint:errorlint // one inside of content's error is the caller's
	if !ok {
		return err
	}
	if response.StatusCode == http.StatusNotFound && response.Code == minio.NoSuchKey && !isAbsent(err) {
		return errors.New("HTTP 404 without the text of an S3 server")
	}
	message := response.Error()
	return fmt.Errorf("HTTP %d, %.100q: %.300q", response.StatusCode, response.Code, message)
}
