package s3_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/s3test"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/filestest"
	"github.com/voidnxlab/nixtrap/store/bucketstore/s3"
)

// TestMain takes a pause away that minio-go makes after each failure, even if it is to try but once.
func TestMain(m *testing.M) {
	minio.DefaultRetryUnit = time.Millisecond
	m.Run()
}

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
	t.Parallel()
	filestest.TestFiles(t, func(t *testing.T) bucketstore.Files {
		s := s3test.Start(t)
		t.Cleanup(func() { require.Empty(t, s.Uploads(t), "multipart uploads that were left") })
		return open(t, options(s))
	})
}

func TestFolderOfABucketConforms(t *testing.T) {
	t.Parallel()
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

func TestListGoesThroughAllPages(t *testing.T) {
	b, f, s := faultyBucket(t)
	want := []string{}
	require.NoError(t, os.Mkdir(filepath.Join(s.Dir, "nar"), 0o755))
	for i := range 2500 {
		key := fmt.Sprintf("nar/%04d+%%.nar", i)
		require.NoError(t, os.WriteFile(filepath.Join(s.Dir, key), []byte("x"), 0o644))
		want = append(want, key)
	}
	keys := func() (keys []string, err error) {
		for e, err := range b.List(t.Context(), "nar/") {
			if err != nil {
				return keys, err
			}
			keys = append(keys, e.Key)
		}
		return keys, nil
	}
	got, err := keys()
	require.NoError(t, err)
	require.Equal(t, want, got)
	for _, p := range slices.Concat(passing, []named{{"cut at 0", s3test.CutAt(0)}, {"cut at 3000", s3test.CutAt(3000)}}) {
		for _, page := range []int{0, 1, 2} {
			if p.name == "no answer" && page != 1 {
				continue // as long as patience
			}
			f.Set(func(op string, nth int) s3test.Fault {
				if nth == page || nth == page+1 {
					return p.Fault
				}
				return nil
			})
			got, err := keys()
			require.NoError(t, err, "%s, page %d", p.name, page)
			require.Equal(t, want, got, "%s, page %d", p.name, page)
		}
	}
	for _, p := range slices.Concat(passing[:2], final) {
		f.Set(func(op string, nth int) s3test.Fault {
			if nth > 0 {
				return p.Fault
			}
			return nil
		})
		got, err := keys()
		require.Error(t, err, "%s: a list that is cut short must not look whole", p.name)
		require.Equal(t, want[:1000], got, p.name)
	}
}

func TestObjectsHaveTheTypesOfABinaryCache(t *testing.T) {
	s := s3test.Start(t)
	b := open(t, options(s))
	for _, c := range []struct{ key, contentType, cacheControl string }{
		{"nix-cache-info", "text/x-nix-cache-info", ""},
		{"0c6zk1cs6ys2ckc0pikdbz1h8ci2q2c1.narinfo", "text/x-nix-narinfo", ""},
		{"0c6zk1cs6ys2ckc0pikdbz1h8ci2q2c1.ls", "application/json", ""},
		{"nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.zst", "application/x-nix-nar", "public, max-age=31536000, immutable"},
		{"log/a.drv", "text/plain; charset=utf-8", ""},
		{"realisations/sha256:abc!out.doi", "application/json", ""},
		{"debuginfo/0123", "application/json", ""},
		{"other", "application/octet-stream", ""},
	} {
		for _, content := range [][]byte{[]byte("x"), filestest.Content(1, 9<<20)} {
			_, err := b.Put(t.Context(), c.key, bytes.NewReader(content), -1)
			require.NoError(t, err, c.key)
			info, err := s.Client(t).StatObject(t.Context(), s.Bucket, c.key, minio.StatObjectOptions{})
			require.NoError(t, err, c.key)
			require.Equal(t, c.contentType, info.ContentType, c.key)
			require.Equal(t, c.cacheControl, info.Headers.Get("Cache-Control"), c.key)
			require.Empty(t, info.Headers.Get("Content-Encoding"), "%s: bytes are what they are", c.key)
		}
	}
}

func TestAFolderIsAWorldOfItsOwn(t *testing.T) {
	s := s3test.Start(t)
	o := options(s)
	all := open(t, o)
	o.Folder = "a/b"
	ours := open(t, o)
	core := minio.Core{Client: s.Client(t)}
	for _, key := range []string{"a/b/x", "a/bx", "x"} {
		_, err := all.Put(t.Context(), key, strings.NewReader(key), -1)
		require.NoError(t, err)
		_, err = core.NewMultipartUpload(t.Context(), s.Bucket, key, minio.PutObjectOptions{})
		require.NoError(t, err)
	}
	requireContent(t, ours, "x", []byte("a/b/x"), "in the folder")
	require.NoError(t, ours.Remove(t.Context(), "x"))
	removed, err := ours.AbortIncomplete(t.Context(), -time.Minute)
	require.NoError(t, err)
	require.Equal(t, 1, removed)
	require.Len(t, s.Uploads(t), 2)
	requireContent(t, all, "x", []byte("x"), "outside")
	requireContent(t, all, "a/bx", []byte("a/bx"), "outside")
}

// TestMemoryIsBounded has a Put that holds all there is: another waits, as long as its context lets it.
func TestMemoryIsBounded(t *testing.T) {
	s := s3test.Start(t)
	o := options(s)
	o.PartSize, o.Memory = s3.MinPartSize, s3.MinPartSize
	b := open(t, o)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := b.Put(context.WithoutCancel(t.Context()), "a", r, -1)
		done <- err
	}()
	_, err := w.Write([]byte("x")) // it has its memory, and waits for more
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = b.Put(ctx, "b", strings.NewReader("y"), 1)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, w.Close())
	require.NoError(t, <-done)
	_, err = b.Put(t.Context(), "b", strings.NewReader("y"), 1)
	require.NoError(t, err)
	_, err = b.Put(t.Context(), "c", strings.NewReader(""), s3.MinPartSize*s3.MaxParts+1)
	require.ErrorContains(t, err, "parts")
}

func TestBucketIsThereOrOpenSaysWhy(t *testing.T) {
	s := s3test.Start(t)
	for name, c := range map[string]struct {
		change func(*s3.Options)
		want   string
	}{
		"no such bucket": {func(o *s3.Options) { o.Bucket = "another" }, "NoSuchBucket"},
		"unsigned":       {func(o *s3.Options) { o.Anonymous, o.CredentialsFile, o.Profile = true, "", "" }, "AccessDenied"},
		"no profile":     {func(o *s3.Options) { o.Profile = "absent" }, "no credentials"},
		"no file":        {func(o *s3.Options) { o.CredentialsFile += ".absent" }, "no credentials"},
		"HTTPS":          {func(o *s3.Options) { o.Endpoint = s.Host() }, "HTTP response to HTTPS client"},
	} {
		o := options(s)
		c.change(o)
		_, err := s3.Open(t.Context(), o)
		require.ErrorContains(t, err, c.want, name)
		require.NotErrorIs(t, err, store.ErrNotFound, name)
	}
	wrong := filepath.Join(t.TempDir(), "credentials")
	text := "[default]\naws_access_key_id = " + s.AccessKey + "\naws_secret_access_key = topsecret\n"
	require.NoError(t, os.WriteFile(wrong, []byte(text), 0o600))
	o := options(s)
	o.CredentialsFile = wrong
	_, err := s3.Open(t.Context(), o)
	require.ErrorContains(t, err, "SignatureDoesNotMatch")
	require.NotContains(t, err.Error(), "topsecret")
}

func TestCredentialsOfTheEnvironment(t *testing.T) {
	s := s3test.Start(t)
	o := options(s)
	o.CredentialsFile, o.Profile = "", ""
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN",
		"AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_PROFILE",
	} {
		t.Setenv(name, "")
	}
	_, err := s3.Open(t.Context(), o)
	require.ErrorContains(t, err, "no credentials")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", s.CredentialsFile)
	open(t, o)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "")
	t.Setenv("AWS_ACCESS_KEY_ID", s.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.SecretKey)
	open(t, o)
}

func TestAnyoneReadsAPublicBucket(t *testing.T) {
	s := s3test.StartPublic(t)
	_, err := open(t, options(s)).Put(t.Context(), "a", strings.NewReader("x"), 1)
	require.NoError(t, err)
	o := options(s)
	o.Anonymous, o.CredentialsFile, o.Profile = true, "", ""
	b := open(t, o)
	requireContent(t, b, "a", []byte("x"), "unsigned")
	_, err = b.Open(t.Context(), "b")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = b.Put(t.Context(), "a", strings.NewReader("y"), 1)
	require.ErrorContains(t, err, "AccessDenied")
	require.ErrorContains(t, b.Remove(t.Context(), "a"), "AccessDenied")
	requireContent(t, b, "a", []byte("x"), "still")
}
