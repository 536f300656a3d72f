package s3test_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/s3test"
)

func put(t *testing.T, s *s3test.Server) {
	t.Helper()
	_, err := s.Client(t).PutObject(t.Context(), s.Bucket, "a/b", strings.NewReader("hello"), 5, minio.PutObjectOptions{})
	require.NoError(t, err)
	on, err := os.ReadFile(filepath.Join(s.Dir, "a/b"))
	require.NoError(t, err)
	require.Equal(t, "hello", string(on))
	require.Empty(t, s.Uploads(t))
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

func TestOnlyTheKeysOpenABucket(t *testing.T) {
	s := s3test.Start(t)
	put(t, s)
	status, _ := get(t, s.BucketURL()+"/a/b")
	require.Equal(t, http.StatusForbidden, status)
}

func TestAnyoneMayReadAPublicBucket(t *testing.T) {
	s := s3test.StartPublic(t)
	put(t, s)
	status, body := get(t, s.BucketURL()+"/a/b")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "hello", body)
	status, _ = get(t, s.BucketURL()+"/a/c")
	require.Equal(t, http.StatusNotFound, status)
	status, body = get(t, s.BucketURL()+"?list-type=2")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, body, "<Key>a/b</Key>")
	resp, err := http.Post(s.BucketURL()+"/a/b", "text/plain", strings.NewReader("x"))
	require.NoError(t, err)
	resp.Body.Close()
	require.GreaterOrEqual(t, resp.StatusCode, 400)
}

func TestAProxyLosesAnAnswerAndNotTheObject(t *testing.T) {
	s, f := s3test.Start(t), s3test.NewFaults()
	c, err := minio.New(strings.TrimPrefix(s.Proxy(t, f), "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: s3test.Region, MaxRetries: 1,
	})
	require.NoError(t, err)
	f.Set(s3test.Always("PutObject", s3test.LostAnswer))
	_, err = c.PutObject(t.Context(), s.Bucket, "a", strings.NewReader("hello"), 5, minio.PutObjectOptions{})
	require.ErrorContains(t, err, "reset")
	f.Set(nil)
	info, err := c.StatObject(t.Context(), s.Bucket, "a", minio.StatObjectOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 5, info.Size)
}
