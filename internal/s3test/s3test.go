// Package s3test runs a real S3 server in tests: versitygw over a folder of the test's own, at a free port of the
// loopback. `.ci/versitygw` installs it; package peer says what happens where it is not there.
package s3test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/voidnxlab/nixtrap/internal/peer"
)

// Region is the servers' region.
const Region = "us-east-1"

// Server is a running server with one bucket, empty at first. It ends with the test.
type Server struct {
	// URL is "http://127.0.0.1:PORT". The bucket's name stands in the path.
	URL string
	// Bucket is the bucket's name.
	Bucket string
	// AccessKey and SecretKey may do everything.
	AccessKey, SecretKey string
	// CredentialsFile is an AWS shared credentials file that has the keys as profile "default".
	CredentialsFile string
	// Dir is where the bucket's objects lie, as files with the objects' keys.
	Dir string
}

// Start starts a server whose bucket nobody may use without the keys.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{Bucket: "bucket-" + strings.ToLower(rand.Text()), AccessKey: rand.Text(), SecretKey: rand.Text()}
	folder := t.TempDir()
	s.Dir = filepath.Join(folder, "objects", s.Bucket)
	s.CredentialsFile = filepath.Join(folder, "credentials")
	text := fmt.Sprintf("[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", s.AccessKey, s.SecretKey)
	if err := os.WriteFile(s.CredentialsFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{filepath.Dir(s.Dir), s.metadata()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t)
	if err := s.Client(t).MakeBucket(t.Context(), s.Bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatalf("s3test: %v", err)
	}
	return s
}

// StartPublic starts a server whose bucket anyone may read and list, at [Server.BucketURL] or by an unsigned s3://.
func StartPublic(t testing.TB) *Server {
	t.Helper()
	s := Start(t)
	policy := fmt.Sprintf(`{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::%[1]s/*"]},
		{"Effect": "Allow", "Principal": "*", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::%[1]s"]}
	]}`, s.Bucket)
	if err := s.Client(t).SetBucketPolicy(t.Context(), s.Bucket, policy); err != nil {
		t.Fatalf("s3test: %v", err)
	}
	return s
}

// metadata is where the server keeps what S3 has beside objects' bytes: not every file system has extended attributes.
func (s *Server) metadata() string {
	return filepath.Join(filepath.Dir(filepath.Dir(s.Dir)), "metadata")
}

// BucketURL is the bucket as a plain web server.
func (s *Server) BucketURL() string { return s.URL + "/" + s.Bucket }

// Host is "127.0.0.1:PORT".
func (s *Server) Host() string { return strings.TrimPrefix(s.URL, "http://") }

// Client returns a client with the server's keys, to look at the bucket past what is tested.
func (s *Server) Client(t testing.TB) *minio.Client {
	t.Helper()
	c, err := minio.New(s.Host(), &minio.Options{
		Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Region: Region, MaxRetries: 1,
	})
	if err != nil {
		t.Fatalf("s3test: %v", err)
	}
	return c
}

// Uploads returns the ids of multipart uploads that were neither completed nor aborted.
func (s *Server) Uploads(t testing.TB) []string {
	t.Helper()
	core := minio.Core{Client: s.Client(t)}
	page, err := core.ListMultipartUploads(context.WithoutCancel(t.Context()), s.Bucket, "", "", "", "", 1000)
	if err != nil {
		t.Fatalf("s3test: %v", err)
	}
	var ids []string
	for _, u := range page.Uploads {
		ids = append(ids, u.UploadID)
	}
	return ids
}

// run starts the server. A path that nobody else has shows that who answers is ours.
func (s *Server) run(t testing.TB) {
	t.Helper()
	program, health := peer.Program(t, "versitygw"), "/"+rand.Text()
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	addresses, _ := peer.Serve(t, 1, func(addresses []string) *exec.Cmd {
		cmd := exec.Command(program, "--port", addresses[0], "--region", Region, "--health", health, "--keep-alive",
			"--quiet", "posix", "--sidecar", s.metadata(), filepath.Dir(s.Dir))
		cmd.Env = []string{"ROOT_ACCESS_KEY_ID=" + s.AccessKey, "ROOT_SECRET_ACCESS_KEY=" + s.SecretKey}
		cmd.Dir = filepath.Dir(s.Dir)
		return cmd
	}, func(addresses []string) bool {
		resp, err := client.Get("http://" + addresses[0] + health)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	s.URL = "http://" + addresses[0]
}
