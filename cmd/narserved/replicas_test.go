package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/pgtest"
	"github.com/voidnxlab/nixtrap/internal/s3test"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog/postgres"
	"github.com/voidnxlab/nixtrap/store/bucketstore/gc"
	"github.com/voidnxlab/nixtrap/store/bucketstore/s3"
)

// cluster is three servers behind nginx, over one bucket in S3 and one PostgreSQL.
type cluster struct {
	t       *testing.T
	URL     string // nginx's
	args    []string
	address []string
	client  *http.Client
	token   string

	log logBuffer // of all servers

	mu        sync.Mutex // guards what follows
	servers   []*exec.Cmd
	published []made

	pushed, pulled, cut, gone, collected atomic.Int64
}

// TestReplicasSurviveKills has two pushers, sixteen pullers and a collector at work while one server after the other is
// killed, and PostgreSQL once: for twelve seconds, or for a minute with NIXTRAP_SOAK.
func TestReplicasSurviveKills(t *testing.T) {
	lasts := 12 * time.Second
	if os.Getenv("NIXTRAP_SOAK") != "" {
		lasts = time.Minute
	}
	bucket, postgresql := s3test.Start(t), pgtest.Start(t)
	database := postgresql.Database(t)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", bucket.CredentialsFile)
	uri := fmt.Sprintf("s3://%s?endpoint=%s&region=%s", bucket.Bucket, url.QueryEscape(bucket.URL), s3test.Region)
	c := startCluster(t, "--upload", "--store", uri, "--catalog", database, "--unsigned", "--upload-lease", "2s", "--gc-interval", "0s", "--log-level", "warn")
	options, err := s3.ParseURL(uri)
	require.NoError(t, err)
	files, err := s3.Open(t.Context(), options)
	require.NoError(t, err)
	known, err := postgres.Connect(t.Context(), database, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = known.Close() })

	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var work sync.WaitGroup
	for i := range 2 {
		work.Go(func() { c.pushAll(ctx, i) })
	}
	for range 16 {
		work.Go(func() { c.pullAll(ctx) })
	}
	work.Go(func() { c.collectAll(ctx, known.Catalog, files) })
	work.Go(func() { c.killAll(ctx) })
	work.Go(func() {
		select {
		case <-ctx.Done():
		case <-time.After(lasts / 2):
			postgresql.Restart(t)
		}
	})
	work.Wait()
	t.Logf("%d paths pushed, %d archives pulled, %d answers cut, %d paths found gone, %d collected",
		c.pushed.Load(), c.pulled.Load(), c.cut.Load(), c.gone.Load(), c.collected.Load())
	require.Positive(t, c.pushed.Load())
	require.Positive(t, c.pulled.Load())
	requireWhole(t, known.Catalog, files)
}

func startCluster(t *testing.T, args ...string) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{t: t, args: append(args, "--token-file", dir+"/tokens.json", "--state-dir", dir),
		client: &http.Client{Timeout: 30 * time.Second}}
	u := &uploadServer{tokens: dir + "/tokens.json"}
	c.token = u.token(t, "push", "--scope", "read")
	var upstreams strings.Builder
	for i := range 3 {
		c.address = append(c.address, freeAddress(t))
		c.servers = append(c.servers, nil)
		c.start(i)
		fmt.Fprintf(&upstreams, "server %s max_fails=1 fail_timeout=1s;\n", c.address[i])
	}
	t.Cleanup(func() {
		for i := range c.servers {
			c.kill(i)
		}
		if t.Failed() {
			t.Logf("the servers said:\n%s", c.log.String())
		}
	})
	c.URL = startBalancer(t, dir, upstreams.String())
	require.Eventually(t, func() bool { return get(t, c.URL+"/nix-cache-info").status == http.StatusOK }, 20*time.Second,
		50*time.Millisecond)
	return c
}

func startBalancer(t *testing.T, dir, upstreams string) string {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		program = "/usr/sbin/nginx"
	}
	address := freeAddress(t)
	conf := filepath.Join(dir, "nginx.conf")
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	require.NoError(t, os.WriteFile(conf, []byte(fmt.Sprintf(`daemon off; %s pid %[2]s/pid; error_log stderr crit;
events {} http { access_log off; client_max_body_size 0; client_body_temp_path %[2]s/b; proxy_temp_path %[2]s/p;
fastcgi_temp_path %[2]s/f; uwsgi_temp_path %[2]s/u; scgi_temp_path %[2]s/s;
upstream replicas { %[3]s }
server { listen %[4]s; location / { proxy_pass http://replicas; proxy_buffering off; proxy_http_version 1.1;
proxy_set_header Connection ""; } } }`, user, dir, upstreams, address)), 0o644))
	cmd := exec.CommandContext(t.Context(), program, "-e", "stderr", "-c", conf)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() })
	return "http://" + address
}

// start starts a server. It is called before others use the cluster, or with its mutex held.
func (c *cluster) start(i int) {
	cmd := exec.Command("narserved", append([]string{"serve", "--listen", c.address[i]}, c.args...)...)
	cmd.Stderr = &c.log
	if err := cmd.Start(); err != nil {
		c.t.Error(err)
		return
	}
	c.servers[i] = cmd
}

func (c *cluster) kill(i int) {
	_ = c.servers[i].Process.Kill()
	_ = c.servers[i].Wait()
}

func (c *cluster) killAll(ctx context.Context) {
	for i := 0; ; i = (i + 1) % len(c.servers) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Second):
		}
		c.mu.Lock()
		c.kill(i)
		c.start(i)
		c.mu.Unlock()
	}
}

// request asks nginx. err is a connection that broke, or a body that did.
func (c *cluster) request(ctx context.Context, method, path string, body []byte) (status int, text []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if method == http.MethodPut {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(resp.Body)
	return resp.StatusCode, text, err
}

// put tries until it is told yes or no.
func (c *cluster) put(ctx context.Context, path string, body []byte) (status int) {
	for ctx.Err() == nil {
		status, _, err := c.request(ctx, http.MethodPut, path, body)
		if err == nil && status < 500 {
			return status
		}
	}
	return 0
}

func (c *cluster) pushAll(ctx context.Context, pusher int) {
	random := rand.New(rand.NewPCG(uint64(pusher), 1))
	for n := 0; ctx.Err() == nil; n++ {
		var references []narinfo.StorePath
		c.mu.Lock()
		for range min(len(c.published), random.IntN(4)) {
			last := c.published[max(0, len(c.published)-20):]
			references = append(references, last[random.IntN(len(last))].info.StorePath)
		}
		c.mu.Unlock()
		slices.Sort(references)
		content := make([]byte, 1+random.IntN(300_000))
		for i := range content {
			content[i] = byte(random.Uint32() >> 7 & 31)
		}
		p := makePath(c.t, fmt.Sprintf("p%d-%d", pusher, n), content, slices.Compact(references)...)
		if c.put(ctx, "/"+p.info.URL, p.archive) != http.StatusCreated {
			continue
		}
		switch status := c.put(ctx, p.key(), p.narinfo(c.t)); status {
		case http.StatusCreated:
			c.pushed.Add(1)
			c.mu.Lock()
			c.published = append(c.published, p)
			c.mu.Unlock()
		case 0, http.StatusConflict: // the time is over; or what it refers to was collected, or its archive
		default:
			c.t.Errorf("narinfo of %s: status %d", p.info.StorePath, status)
		}
	}
}

func (c *cluster) pullAll(ctx context.Context) {
	for ctx.Err() == nil {
		c.mu.Lock()
		if len(c.published) == 0 {
			c.mu.Unlock()
			time.Sleep(10 * time.Millisecond)
			continue
		}
		p := c.published[rand.IntN(len(c.published))]
		c.mu.Unlock()
		if err := c.pull(ctx, p); err != nil {
			c.t.Error(err)
			return
		}
	}
}

// pull reads a path. Its error is something that must never happen.
func (c *cluster) pull(ctx context.Context, p made) error {
	status, text, err := c.request(ctx, http.MethodGet, p.key(), nil)
	switch {
	case err != nil || status >= 500:
		c.cut.Add(1)
		return nil
	case status == http.StatusNotFound:
		c.gone.Add(1)
		return nil
	}
	info, err := narinfo.Parse(text)
	if err != nil || info.NarHash != p.info.NarHash {
		return fmt.Errorf("narinfo of %s: %v\n%s", p.info.StorePath, err, text)
	}
	for _, reference := range info.References {
		status, _, err := c.request(ctx, http.MethodGet, "/"+string(reference.HashPart())+".narinfo", nil)
		if err != nil || status != http.StatusNotFound {
			continue
		}
		// Referrers go first: if this is gone, so is what referred to it.
		if status, _, err := c.request(ctx, http.MethodGet, p.key(), nil); err == nil && status == http.StatusOK {
			return fmt.Errorf("%s is there, and %s, which it refers to, is not", info.StorePath, reference)
		}
	}
	status, archive, err := c.request(ctx, http.MethodGet, "/"+info.URL, nil)
	if err != nil || status != http.StatusOK {
		c.cut.Add(1)
		return nil
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		return err
	}
	defer d.Close()
	nar, err := d.DecodeAll(archive, nil)
	if sum := sha256.Sum256(nar); err != nil || !bytes.Equal(sum[:], p.info.NarHash.Digest()) {
		return fmt.Errorf("the archive of %s came whole and wrong: %v", p.info.StorePath, err)
	}
	c.pulled.Add(1)
	return nil
}

func (c *cluster) collectAll(ctx context.Context, known *catalog.Catalog, files bucketstore.Files) {
	for ctx.Err() == nil {
		report, err := gc.Collect(ctx, known, bucketstore.NewRemover(files), gc.Options{MaxSize: 4 << 20, Look: bucketstore.NewLook(files)})
		_, database := errors.AsType[*catalog.DatabaseError](err)
		_, locked := errors.AsType[*catalog.LockedError](err) // by this very collector, when PostgreSQL went down under it
		if err != nil && !database && !locked && ctx.Err() == nil {
			c.t.Errorf("collector: %v", err)
			return
		}
		if report != nil {
			c.collected.Add(int64(report.Deleted))
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// requireWhole checks the bucket against the catalog, and all content.
func requireWhole(t *testing.T, known *catalog.Catalog, files bucketstore.Files) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	s, err := bucketstore.OpenFiles(ctx, files, nil)
	require.NoError(t, err)
	defer s.Close()
	there := map[narinfo.HashPart]bool{}
	for path, err := range s.Paths(ctx) {
		require.NoError(t, err)
		there[path.HashPart()] = true
	}
	for hash := range there {
		info, err := s.Info(ctx, hash)
		require.NoError(t, err, "%s", hash)
		require.NoError(t, store.Verify(ctx, s, info), "%s", info.StorePath)
		for _, reference := range info.References {
			require.True(t, there[reference.HashPart()], "%s refers to %s", info.StorePath, reference)
		}
	}
	require.NotEmpty(t, there)
	for path, err := range known.Paths(ctx, "", "") {
		require.NoError(t, err)
		require.True(t, there[path.StorePath.HashPart()], "the catalog knows %s", path.StorePath)
	}
}
