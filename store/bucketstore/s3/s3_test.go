package s3_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/s3test"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/filestest"
	"github.com/voidnxlab/nixtrap/store/bucketstore/s3"
)

// options are those for a server of the tests.
func options(s *s3test.Server) *s3.Options {
	o := &s3.Options{
		Endpoint: s.URL, Bucket: s.Bucket, Region: s3test.Region, CredentialsFile: s.CredentialsFile, Profile: "default",
	}
	o.SetPatience(10*time.Second, time.Millisecond)
	return o
}

func open(t *testing.T, o *s3.Options) *s3.Bucket {
	t.Helper()
	b, err := s3.Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func TestBucketConforms(t *testing.T) {
	filestest.TestFiles(t, func(t *testing.T) bucketstore.Files {
		s := s3test.Start(t)
		t.Cleanup(func() { require.Empty(t, s.Uploads(t), "multipart uploads that were left") })
		return open(t, options(s))
	})
}

func TestFolderOfABucketConforms(t *testing.T) {
	filestest.TestFiles(t, func(t *testing.T) bucketstore.Files {
		s := s3test.Start(t)
		others := open(t, options(s))
		for _, key := range []string{"a", "x", "caches/ours2/a", "caches/our"} {
			_, err := others.Put(t.Context(), key, strings.NewReader("another's"), -1)
			require.NoError(t, err)
		}
		o := options(s)
		o.Folder = "/caches/ours/"
		o.PartSize, o.Memory = s3.MinPartSize, s3.MinPartSize
		t.Cleanup(func() { require.Empty(t, s.Uploads(t), "multipart uploads that were left") })
		return open(t, o)
	})
}
