package s3

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// Limits and defaults of [Options].
const (
	DefaultEndpoint = "s3.amazonaws.com"
	DefaultRegion   = "us-east-1"
	DefaultPartSize = 8 << 20
	DefaultMemory   = 64 << 20
	MinPartSize     = 5 << 20 // S3 takes no smaller parts but the last
	MaxParts        = 10000
)

// Addressing says where in a URL the bucket's name stands.
type Addressing int

const (
	// AddressingAuto is [AddressingHost] at AWS and Google, [AddressingPath] anywhere else.
	AddressingAuto Addressing = iota
	// AddressingPath is https://ENDPOINT/BUCKET/KEY.
	AddressingPath
	// AddressingHost is https://BUCKET.ENDPOINT/KEY.
	AddressingHost
)

func (a Addressing) lookup() minio.BucketLookupType {
	switch a {
	case AddressingPath:
		return minio.BucketLookupPath
	case AddressingHost:
		return minio.BucketLookupDNS
	default:
		return minio.BucketLookupAuto
	}
}

// Options say which bucket, and how to get there. They hold no secrets.
type Options struct {
	// Bucket is the bucket's name. It must not be empty.
	Bucket string

	// Folder is where in the bucket the files are, "a/b". Empty: all of the bucket.
	Folder string

	// Endpoint is HOST, HOST:PORT or a URL of these; without "http://" it is HTTPS. Empty: [DefaultEndpoint].
	Endpoint string

	// Region is part of each signature, and of AWS's host names.
	// Empty: the environment's AWS_REGION or AWS_DEFAULT_REGION, or [DefaultRegion].
	Region string

	// Addressing says where the bucket's name stands.
	Addressing Addressing

	// CredentialsFile is an AWS shared credentials file, and Profile a profile of it. One alone has the usual other:
	// ~/.aws/config and ~/.aws/credentials (or as AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE say), and AWS_PROFILE
	// or "default".
	//
	// Where both are empty credentials are the first that there are: those in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY
	// and AWS_SESSION_TOKEN; in the usual files; those of the container, web identity or machine (not with
	// AWS_EC2_METADATA_DISABLED=true). It is an error if there are none.
	CredentialsFile string
	Profile         string

	// Anonymous signs nothing. It contradicts CredentialsFile and Profile.
	Anonymous bool

	// PartSize is in bytes, at least [MinPartSize]. Content of up to this size is one request. 0: [DefaultPartSize].
	PartSize int

	// Memory bounds the bytes that all Puts together hold at a time, at least PartSize; others wait. A Put of unknown
	// or greater size takes whole parts, up to four. 0: [DefaultMemory], or PartSize if that is more.
	Memory int

	// Transport makes the requests. It must not decode bodies. nil: one like [http.DefaultTransport] of its own.
	Transport http.RoundTripper

	stall, pause time.Duration // 0: 30 s and 200 ms
}

func (o *Options) withDefaults() (Options, error) {
	if o == nil {
		o = new(Options)
	}
	c := *o
	c.Endpoint = cmp.Or(c.Endpoint, DefaultEndpoint)
	c.Region = cmp.Or(c.Region, os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), DefaultRegion)
	c.PartSize = cmp.Or(c.PartSize, DefaultPartSize)
	c.Memory = cmp.Or(c.Memory, max(DefaultMemory, c.PartSize))
	c.stall = cmp.Or(c.stall, 30*time.Second)
	c.pause = cmp.Or(c.pause, 200*time.Millisecond)
	c.Folder = strings.Trim(c.Folder, "/")
	switch {
	case s3utils.CheckValidBucketName(c.Bucket) != nil:
		return c, fmt.Errorf("s3: bucket name %q: %v", c.Bucket, s3utils.CheckValidBucketName(c.Bucket))
	case c.Folder != "" && (!fs.ValidPath(c.Folder) || c.Folder == "."):
		return c, fmt.Errorf("s3: folder %q is not a clean path", c.Folder)
	case c.Anonymous && c.CredentialsFile+c.Profile != "":
		return c, errors.New("s3: both anonymous and with credentials")
	case c.PartSize < MinPartSize || c.Memory < c.PartSize:
		return c, fmt.Errorf("s3: part size %d below %d, or memory %d below one part", c.PartSize, MinPartSize, c.Memory)
	case c.Addressing < AddressingAuto || c.Addressing > AddressingHost:
		return c, fmt.Errorf("s3: no addressing %d", c.Addressing)
	}
	return c, nil
}

func (o *Options) transport() (http.RoundTripper, func()) {
	if o.Transport != nil {
		return o.Transport, func() {}
	}
	t := ownTransport()
	return t, t.CloseIdleConnections
}

// splitEndpoint returns host and port, and whether it is HTTPS. Its errors don't repeat what may be a password.
func splitEndpoint(endpoint string) (host string, secure bool, err error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", false, errors.New("s3: endpoint is not a URL")
	}
	if u.User != nil {
		return "", false, errors.New("s3: endpoint with a user: credentials come from files or the environment")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" || u.Fragment != "" {
		return "", false, fmt.Errorf("s3: endpoint %q is not HOST, HOST:PORT, or http:// or https:// and these", endpoint)
	}
	return u.Host, u.Scheme == "https", nil
}
