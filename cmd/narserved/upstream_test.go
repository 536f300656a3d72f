package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

// origin is a binary cache of made-up paths, which counts what it is asked for.
type origin struct {
	URL string
	key *signing.SecretKey

	mu        sync.Mutex // guards what follows
	files     map[string][]byte
	asked     map[string]int
	interfere func(http.ResponseWriter, *http.Request) (answered bool)
}

func newOrigin(t *testing.T) *origin {
	t.Helper()
	o := &origin{key: newKey(t, "origin-1"), files: map[string][]byte{}, asked: map[string]int{}}
	s := httptest.NewServer(o)
	t.Cleanup(s.Close)
	o.URL = s.URL
	return o
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.asked[r.URL.Path]++
	file, ok := o.files[r.URL.Path]
	interfere := o.interfere
	o.mu.Unlock()
	switch {
	case interfere != nil && interfere(w, r):
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	default:
		_, _ = w.Write(file)
	}
}

// add puts a path in, signed, with its archive where its narinfo says.
func (o *origin) add(t *testing.T, m made) made {
	t.Helper()
	m.info.Signatures = nil
	m.info.Sign(o.key)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.files[m.key()] = m.narinfo(t)
	at, _, _ := strings.Cut(m.info.URL, "?")
	o.files["/"+at] = m.archive
	return m
}

func (o *origin) set(interfere func(http.ResponseWriter, *http.Request) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.interfere = interfere
}

// count is how many requests had this in their path.
func (o *origin) count(part string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for path, k := range o.asked {
		if strings.Contains(path, part) {
			n += k
		}
	}
	return n
}

func (o *origin) flags() []string {
	return []string{"--upstream", o.URL, "--upstream-key", o.key.Public().String()}
}

type upstreamStatus struct {
	URL, State                                           string
	Found, Absent, Failed, Refused, Pulled, Joined, Kept int64
	Unneeded                                             int64
	NotKept                                              int64 `json:"not_kept"`
}

func (s *server) upstreams(t *testing.T) []upstreamStatus {
	t.Helper()
	var status struct{ Upstreams []upstreamStatus }
	require.NoError(t, json.Unmarshal(get(t, s.Admin+"/status").body, &status))
	return status.Upstreams
}

// hasKept waits until n paths of the first upstream are kept.
func (s *server) hasKept(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return s.upstreams(t)[0].Kept == int64(n) }, time.Minute, 10*time.Millisecond,
		"%d paths are kept", n)
}

// keeping is a server with an upstream, which keeps what it pulls in the directory that it serves.
func startKeeping(t *testing.T, args ...string) (s *server, dir string) {
	t.Helper()
	dir = t.TempDir()
	return startServer(t, append([]string{"--store", "file://" + dir, "--keep", dir}, args...)...), dir
}

// fetch gets a path's NAR by its narinfo, as a client does.
func (s *server) fetch(t *testing.T, m made) (fields map[string]string, archive answer) {
	t.Helper()
	fields = s.narinfoFields(t, string(m.info.StorePath))
	return fields, get(t, s.URL+"/"+fields["URL"])
}

func filesOf(t *testing.T, dir string) []string {
	t.Helper()
	return (&uploadServer{Bucket: dir}).files(t)
}

func TestWhatIsNotHereIsPulledAndKept(t *testing.T) {
	o := newOrigin(t)
	lib := o.add(t, makePath(t, "lib", bytes.Repeat([]byte("lib"), 100_000)))
	app := o.add(t, makePath(t, "app", []byte("app"), lib.info.StorePath))
	s, dir := startKeeping(t, o.flags()...)
	require.Equal(t, "unused", s.upstreams(t)[0].State, "nothing is asked at the start, nor by a health check")
	require.Zero(t, o.count(""))

	fields, got := s.fetch(t, app)
	require.Equal(t, app.archive, got.body)
	require.Equal(t, "zstd", fields["Compression"])
	require.Equal(t, fmt.Sprint(app.info.FileSize), got.header.Get("Content-Length"))
	s.hasKept(t, 1)
	stored, err := os.ReadFile(dir + app.key())
	require.NoError(t, err)
	require.Contains(t, string(stored), "Sig: origin-1:", "the upstream's signature stays")
	require.Contains(t, string(stored), "URL: "+app.info.URL)
	require.NotContains(t, string(stored), "test.example.org-1", "ours is for who asks this server")
	text := string(get(t, s.URL+app.key()).body)
	require.Contains(t, text, "Sig: origin-1:")
	require.Contains(t, text, "Sig: test.example.org-1:")

	asked := o.count("")
	_, got = s.fetch(t, app)
	require.Equal(t, app.archive, got.body)
	require.Equal(t, asked, o.count(""), "what is here asks nobody")
	require.Equal(t, 404, get(t, s.URL+makePath(t, "absent", nil).key()).status)
	require.Equal(t, "up", s.upstreams(t)[0].State)
}

func TestAHeadFetchesNoArchive(t *testing.T) {
	o := newOrigin(t)
	p := makePath(t, "hello", []byte("hello"))
	p.info.FileHash, p.info.FileSize = narinfo.Hash{}, 0
	o.add(t, p)
	s, _ := startKeeping(t, o.flags()...)
	url := s.URL + "/" + s.narinfoFields(t, string(p.info.StorePath))["URL"]
	ls := s.URL + "/" + string(p.info.StorePath.HashPart()) + ".ls"
	for _, at := range []string{url, s.URL + p.key(), ls, s.URL + "/serve/" + string(p.info.StorePath.HashPart()) + "/"} {
		resp, err := httpClient.Head(at)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	require.Zero(t, o.count("/nar/"))
	require.Equal(t, 200, get(t, ls).status)
	require.Equal(t, 1, o.count("/nar/"))
}

// What other servers have under URLs of their own, and without saying what file that is, is kept as any bucket keeps it.
func TestForeignShapesAreKeptUnderCanonicalNames(t *testing.T) {
	for name, change := range map[string]func(*made){
		"snix":      func(m *made) { m.info.URL = "nar/snix-castore/Cg?narsize=1" },
		"nix-serve": func(m *made) { m.info.URL = "nar/" + string(m.info.StorePath.HashPart()) + ".nar" },
		"plain": func(m *made) {
			m.archive = decode(t, m.archive)
			m.info.URL, m.info.Compression = "nar/"+string(m.info.StorePath.HashPart())+"-x.nar", "none"
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			canonical := makePath(t, "hello", []byte(strings.Repeat("hello", 10_000)))
			m := made{info: canonical.info.Clone(), archive: canonical.archive}
			m.info.FileHash, m.info.FileSize = narinfo.Hash{}, 0
			change(&m)
			key := canonical.info.URL
			if m.info.Compression == "none" {
				key = "nar/" + m.info.NarHash.Base32() + ".nar"
			}
			o.add(t, m)
			s, dir := startKeeping(t, o.flags()...)
			_, got := s.fetch(t, m)
			require.NoError(t, got.err)
			require.Equal(t, m.archive, got.body)
			s.hasKept(t, 1)
			require.ElementsMatch(t, []string{"nix-cache-info", key, m.key()[1:]}, filesOf(t, dir))
			o.set(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true })
			_, got = s.fetch(t, m)
			require.Equal(t, m.archive, got.body)
		})
	}
}

func TestNothingWrongIsKept(t *testing.T) {
	other := makePath(t, "other", []byte(strings.Repeat("other", 50_000)))
	for name, row := range map[string]struct {
		change  func(m *made) // after it was signed
		serve   func(w http.ResponseWriter, archive []byte)
		arrives bool // for what the narinfo says of the file is true, and only its NAR is another
	}{
		"a flipped byte": {serve: func(w http.ResponseWriter, a []byte) {
			b := bytes.Clone(a)
			b[len(b)/2] ^= 1
			_, _ = w.Write(b)
		}},
		"a flipped byte, and no FileHash": {
			change: func(m *made) { m.info.FileHash, m.info.FileSize = narinfo.Hash{}, 0 },
			serve: func(w http.ResponseWriter, a []byte) {
				b := bytes.Clone(a)
				b[len(b)/2] ^= 1
				_, _ = w.Write(b)
			},
		},
		"an early end":              {serve: func(w http.ResponseWriter, a []byte) { _, _ = w.Write(a[:len(a)-1]) }},
		"an early end in chunks":    {serve: func(w http.ResponseWriter, a []byte) { chunks(w, a[:len(a)-1]) }},
		"a cut connection":          {serve: func(w http.ResponseWriter, a []byte) { chunks(w, a[:len(a)/2]); panic(http.ErrAbortHandler) }},
		"more than there should be": {serve: func(w http.ResponseWriter, a []byte) { chunks(w, append(bytes.Clone(a), 0)) }},
		"an archive that its FileHash vouches": {change: func(m *made) {
			m.archive, m.info.FileHash, m.info.FileSize = other.archive, other.info.FileHash, other.info.FileSize
		}, arrives: true},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			m := o.add(t, makePath(t, "hello", noise(1<<20)))
			if row.change != nil {
				row.change(&m)
				o.files[m.key()], o.files["/"+m.info.URL] = m.narinfo(t), m.archive
			}
			o.set(func(w http.ResponseWriter, r *http.Request) bool {
				if row.serve == nil || !strings.HasPrefix(r.URL.Path, "/nar/") {
					return false
				}
				row.serve(w, m.archive)
				return true
			})
			s, dir := startKeeping(t, o.flags()...)
			_, got := s.fetch(t, m)
			if !row.arrives {
				require.True(t, got.err != nil || got.status != 200, "nothing wrong arrives whole")
			}
			require.Eventually(t, func() bool { return s.upstreams(t)[0].NotKept > 0 }, 10*time.Second, 5*time.Millisecond)
			require.Zero(t, s.upstreams(t)[0].Kept)
			require.Equal(t, []string{"nix-cache-info"}, filesOf(t, dir))
			for _, nix := range realnix.All(t)[:1] {
				cmd := nix.Command(t, "nix", append(s.trusting(), "copy", "--from", s.URL, "--to", nix.TempDir(t), string(m.info.StorePath))...)
				require.Error(t, cmd.Run())
			}
		})
	}
}

// chunks writes without a Content-Length.
func chunks(w http.ResponseWriter, b []byte) {
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	_, _ = w.Write(b)
}

// blackHole accepts connections and never answers.
func blackHole(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	return "http://" + l.Addr().String()
}

func TestADeadUpstreamHoldsNothingUp(t *testing.T) {
	closed := "http://" + freeAddress(t)
	for name, at := range map[string]string{"black hole": blackHole(t), "nobody listens": closed} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			far := o.add(t, makePath(t, "far", []byte("far")))
			own := newBucket(t)
			near := own.add(t, strings.Repeat("a", 32), "near", 1000)
			s := startServer(t, append([]string{"--store", own.URI(), "--upstream", at, "--upstream-budget", "250ms",
				"--upstream-ttl-negative", "0s"}, o.flags()...)...)
			narinfoOf := "/" + string(near.StorePath.HashPart()) + ".narinfo"
			require.Equal(t, 200, get(t, s.URL+narinfoOf).status)
			require.Equal(t, 200, get(t, narURL(t, s.URL, near)).status)
			require.Equal(t, "unused", s.upstreams(t)[0].State, "what is here asks nobody")
			require.Equal(t, 200, get(t, s.URL+far.key()).status, "the other upstream has it")
			for i := range 6 {
				require.Equal(t, 404, get(t, s.URL+makePath(t, fmt.Sprint("absent-", i), nil).key()).status)
			}
			require.Equal(t, "left alone", s.upstreams(t)[0].State)
			require.Equal(t, "up", s.upstreams(t)[1].State)
			_, got := s.fetch(t, far)
			require.Equal(t, far.archive, got.body)
			require.Equal(t, 200, get(t, s.URL+"/healthz").status)
		})
	}
}

func TestUpstreamsAreTakenInTheirOrder(t *testing.T) {
	first, second := newOrigin(t), newOrigin(t)
	both := first.add(t, makePath(t, "both", []byte("of the first")))
	second.add(t, makePath(t, "both", []byte("of the second")))
	late := second.add(t, makePath(t, "late", []byte("late")))
	answered := make(chan struct{})
	var once sync.Once
	second.set(func(http.ResponseWriter, *http.Request) bool { once.Do(func() { close(answered) }); return false })
	first.set(func(http.ResponseWriter, *http.Request) bool { <-answered; return false }) // asked at the same time
	s := startServer(t, append(append([]string{"--store", newBucket(t).URI()}, first.flags()...),
		"--upstream", second.URL, "--upstream-key", second.key.Public().String())...)
	_, got := s.fetch(t, both)
	require.Equal(t, both.archive, got.body)
	_, got = s.fetch(t, late)
	require.Equal(t, late.archive, got.body)
	require.Zero(t, second.count(both.info.URL))
}

func TestManyFirstRequestsAreOneDownload(t *testing.T) {
	const clients = 16
	o := newOrigin(t)
	p := makePath(t, "large", bytes.Repeat([]byte("0123456789abcdef"), 1<<14))
	o.add(t, p)
	s, _ := startKeeping(t, o.flags()...)
	release := make(chan struct{})
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/nar/") {
			<-release
		}
		return false
	})
	url := s.URL + "/" + s.narinfoFields(t, string(p.info.StorePath))["URL"]
	answers := make(chan answer, clients)
	for range clients {
		go func() { answers <- get(t, url) }()
	}
	require.Eventually(t, func() bool { return s.upstreams(t)[0].Joined == clients-1 }, 10*time.Second, 5*time.Millisecond)
	close(release)
	for range clients {
		a := <-answers
		require.NoError(t, a.err)
		require.Equal(t, p.archive, a.body)
	}
	require.Equal(t, 1, o.count("/nar/"))
}

// halfway has the origin send half of each archive, and the rest when release is closed.
func (o *origin) halfway() (release chan struct{}) {
	release = make(chan struct{})
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		file, ok := o.files[r.URL.Path]
		if !ok || !strings.HasPrefix(r.URL.Path, "/nar/") {
			return false
		}
		_, _ = w.Write(file[:len(file)/2])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
			_, _ = w.Write(file[len(file)/2:])
		case <-r.Context().Done():
		}
		return true
	})
	return release
}

// noise does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestClientsReadWhatIsStillArriving(t *testing.T) {
	o := newOrigin(t)
	p := o.add(t, makePath(t, "large", noise(1<<20)))
	s, dir := startKeeping(t, o.flags()...)
	release := o.halfway()
	resp, err := httpClient.Get(s.URL + "/" + s.narinfoFields(t, string(p.info.StorePath))["URL"])
	require.NoError(t, err)
	defer resp.Body.Close()
	half := make([]byte, len(p.archive)/2-64<<10) // all but what lies in buffers on the way
	_, err = io.ReadFull(resp.Body, half)
	require.NoError(t, err)
	require.Equal(t, p.archive[:len(half)], half)
	require.NotContains(t, filesOf(t, dir), p.key()[1:])
	close(release)
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, p.archive[len(half):], rest)
	s.hasKept(t, 1)
}

// A download that goes on for the cache alone does not keep the server from stopping, and leaves nothing.
func TestAStopEndsDownloads(t *testing.T) {
	o := newOrigin(t)
	p := o.add(t, makePath(t, "large", noise(1<<20)))
	s, dir := startKeeping(t, o.flags()...)
	o.halfway()
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/"+s.narinfoFields(t, string(p.info.StorePath))["URL"], nil)
	require.NoError(t, err)
	resp, err := httpClient.Do(req)
	require.NoError(t, err)
	leave()
	require.NoError(t, resp.Body.Close())
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, s.cmd.Wait())
	require.Equal(t, []string{"nix-cache-info"}, filesOf(t, dir))
}

func TestPushersSeeNothingOfUpstreams(t *testing.T) {
	o := newOrigin(t)
	lib := o.add(t, makePath(t, "lib", []byte("lib")))
	app := makePath(t, "app", []byte("app"), lib.info.StorePath)
	u := startUploadServer(t, o.flags()...)
	token := u.token(t, "push")
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, path := range []string{lib.key(), "/" + lib.info.URL, "/nar/" + string(lib.info.StorePath.HashPart()) + ".nar",
			"/" + string(lib.info.StorePath.HashPart()) + ".ls"} {
			require.Equal(t, 404, u.send(t, method, path, token, nil).status, path)
		}
	}
	require.Equal(t, 201, u.send(t, http.MethodPut, "/"+app.info.URL, token, bytes.NewReader(app.archive)).status)
	require.Equal(t, 409, u.send(t, http.MethodPut, app.key(), token, bytes.NewReader(app.narinfo(t))).status)
	require.Zero(t, o.count(""))

	_, got := u.fetch(t, lib)
	require.Equal(t, lib.archive, got.body)
	u.hasKept(t, 1)
	require.Equal(t, 201, u.send(t, http.MethodPut, app.key(), token, bytes.NewReader(app.narinfo(t))).status, "it is here now")
	require.Equal(t, 200, u.send(t, http.MethodHead, lib.key(), token, nil).status, "and pushers see it")
}

func TestUploadsMayReferToACompleteUpstream(t *testing.T) {
	o := newOrigin(t)
	lib := o.add(t, makePath(t, "lib", []byte("lib")))
	app := makePath(t, "app", []byte("app"), lib.info.StorePath)
	broken := makePath(t, "broken", []byte("broken"), makePath(t, "nowhere", nil).info.StorePath)
	u := startUploadServer(t, append(o.flags(), "--upstream-complete", o.URL, "--keep", "none")...)
	token := u.token(t, "push")
	put := func(m made) int {
		require.Equal(t, 201, u.send(t, http.MethodPut, "/"+m.info.URL, token, bytes.NewReader(m.archive)).status)
		return u.send(t, http.MethodPut, m.key(), token, bytes.NewReader(m.narinfo(t))).status
	}
	require.Equal(t, 201, put(app))
	require.Equal(t, 409, put(broken))
	require.Zero(t, o.count("/nar/"), "nothing is fetched for that")
	_, got := u.fetch(t, lib)
	require.Equal(t, lib.archive, got.body)
	require.NotContains(t, u.files(t), lib.key()[1:], "told to keep nothing")

	o.set(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true })
	other := makePath(t, "other", []byte("other"), makePath(t, "unknown", nil).info.StorePath)
	require.Equal(t, 500, put(other), "an upstream that cannot tell is no reason to tell the client to push more")
}

// What was kept and is damaged is fetched again and mended; what an upstream has instead of it is no help.
func TestWhatIsDamagedHereIsMendedFromAnUpstream(t *testing.T) {
	o := newOrigin(t)
	p := o.add(t, makePath(t, "hello", []byte(strings.Repeat("hello", 10_000))))
	s, dir := startKeeping(t, o.flags()...)
	_, got := s.fetch(t, p)
	require.Equal(t, p.archive, got.body)
	s.hasKept(t, 1)
	file := filepath.Join(dir, p.info.URL)
	for name, damage := range map[string][]byte{"short": p.archive[1:], "wrong": bytes.Repeat([]byte{1}, len(p.archive)), "gone": nil} {
		require.NoError(t, os.Remove(file))
		if damage != nil {
			require.NoError(t, os.WriteFile(file, damage, 0o644))
		}
		_, got := s.fetch(t, p)
		require.NoError(t, got.err, name)
		require.Equal(t, p.archive, got.body, name)
		require.Eventually(t, func() bool {
			stored, err := os.ReadFile(file)
			return err == nil && bytes.Equal(stored, p.archive)
		}, 10*time.Second, 10*time.Millisecond, name)
		require.Eventually(t, func() bool {
			before := o.count("/nar/")
			_, got := s.fetch(t, p)
			return bytes.Equal(got.body, p.archive) && o.count("/nar/") == before
		}, 10*time.Second, 50*time.Millisecond, "%s: it is served from here again", name)
		require.Eventually(t, func() bool {
			u := s.upstreams(t)[0]
			return u.Pulled == u.Kept+u.Unneeded+u.NotKept
		}, 10*time.Second, 10*time.Millisecond, "nothing is under way when more damage is done")
	}
}

func TestUpstreamsThatWantALogin(t *testing.T) {
	o := newOrigin(t)
	p := o.add(t, makePath(t, "hello", []byte("hello")))
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "sesame" {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	})
	netrc := filepath.Join(t.TempDir(), "netrc")
	require.NoError(t, os.WriteFile(netrc, []byte("machine other login x password y\nmachine 127.0.0.1 login me password sesame\n"), 0o600))
	s := startServer(t, append(o.flags(), "--store", newBucket(t).URI(), "--upstream-netrc", netrc)...)
	_, got := s.fetch(t, p)
	require.Equal(t, p.archive, got.body)
	without := startServer(t, append(o.flags(), "--store", newBucket(t).URI())...)
	require.Equal(t, 404, get(t, without.URL+p.key()).status)
	require.Equal(t, "failing", without.upstreams(t)[0].State)
	require.NotContains(t, s.log.String()+string(get(t, s.Admin+"/status").body), "sesame")
}

// An upstream's paths are trusted for its keys alone.
func TestUntrustedPathsAreNotThere(t *testing.T) {
	o := newOrigin(t)
	forged := o.add(t, makePath(t, "forged", []byte("forged")))
	forged.info.Signatures = nil
	forged.info.Sign(newKey(t, "origin-1"))
	o.files[forged.key()] = forged.narinfo(t)
	unsigned := makePath(t, "unsigned", []byte("unsigned"))
	o.files[unsigned.key()] = unsigned.narinfo(t)
	s, dir := startKeeping(t, o.flags()...)
	for _, m := range []made{forged, unsigned} {
		require.Equal(t, 404, get(t, s.URL+m.key()).status)
		require.Equal(t, 404, get(t, s.URL+"/nar/"+string(m.info.StorePath.HashPart())+".nar").status)
	}
	require.Equal(t, []string{"nix-cache-info"}, filesOf(t, dir))
	require.Zero(t, o.count("/nar/"))
}

// A live store's own paths come first, compressed by us; an upstream's come as they are, and are not compressed again.
func TestALiveStoreBeforeAnUpstream(t *testing.T) {
	p := newPrivateStore(t)
	own := p.Build(t, "own", "echo own > $out")
	far := p.Build(t, "far", "echo far > $out")
	key := newKey(t, "origin-1")
	dir := p.nix.TempDir(t)
	keyFile := filepath.Join(t.TempDir(), "key")
	require.NoError(t, key.WriteFile(keyFile))
	for _, compression := range []string{"xz", "none"} {
		t.Run(compression, func(t *testing.T) {
			cache := dir + "/" + compression
			p.Run(t, "nix", "copy", "--no-check-sigs", "--to", "file://"+cache+"?secret-key="+keyFile+"&compression="+compression, own, far)
			origin := nginx(t, cache)
			flags := []string{"--upstream", origin.URL, "--upstream-key", key.Public().String(), "--compression", "zstd"}
			s := startServer(t, append(flags, "--store", p.URI())...)
			require.Equal(t, "zstd", s.narinfoFields(t, own)["Compression"])
			before := s.narinfoFields(t, own)["URL"]

			remote := startServer(t, append(flags, "--store", newPrivateStoreAt(t, p).URI(), "--keep", t.TempDir())...)
			fields := remote.narinfoFields(t, own)
			require.Equal(t, compression, fields["Compression"])
			require.Equal(t, 200, get(t, remote.URL+"/"+fields["URL"]).status)
			remote.hasKept(t, 1)
			require.Equal(t, 200, get(t, s.URL+"/"+fields["URL"]).status, "a client remembers this URL from before the path was here")
			require.Equal(t, 200, get(t, s.URL+"/"+before).status)
		})
	}
}

// newPrivateStoreAt is an empty store for the same store directory as p's.
func newPrivateStoreAt(t *testing.T, p *privateStore) *privateStore {
	t.Helper()
	dir := p.nix.TempDir(t)
	empty := &privateStore{Dir: p.Dir, real: dir + "/store", State: dir + "/state", Logs: dir + "/log", nix: p.nix}
	cmd := p.nix.Command(t, "nix-store", "--init")
	cmd.Env = append(cmd.Env, "NIX_STORE_DIR="+empty.real, "NIX_STATE_DIR="+empty.State, "NIX_LOG_DIR="+empty.Logs)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return empty
}

// nginxServer is Debian's nginx over a folder, with a log of what it was asked for.
type nginxServer struct {
	URL  string
	log  string
	stop func()
}

func nginx(t *testing.T, root string) *nginxServer {
	t.Helper()
	program := "/usr/sbin/nginx"
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("NIXTRAP_REQUIRE_NIX") != "" {
			t.Fatal("no nginx here: install nginx-light (NIXTRAP_REQUIRE_NIX is set)")
		}
		t.Skip("no nginx here: install nginx-light")
	}
	dir, address, user := t.TempDir(), freeAddress(t), ""
	if os.Geteuid() == 0 {
		user = "user root;\n"
	}
	var temp strings.Builder
	for _, name := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "%s_temp_path %s/%s;\n", name, dir, name)
	}
	conf := fmt.Sprintf("daemon off;\n%sworker_processes 1;\npid %[2]s/pid;\nerror_log stderr warn;\n"+
		"events { worker_connections 256; }\nhttp {\naccess_log %[2]s/access;\nsendfile on;\n%[3]s"+
		"server { listen %[4]s; root %[5]s; }\n}\n", user, dir, temp.String(), address, root)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o644))
	cmd := exec.Command(program, "-p", dir, "-e", "stderr", "-c", filepath.Join(dir, "nginx.conf"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	s := &nginxServer{URL: "http://" + address, log: filepath.Join(dir, "access")}
	s.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
	})
	t.Cleanup(s.stop)
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", address)
		return err == nil && c.Close() == nil
	}, 10*time.Second, 10*time.Millisecond, "nginx does not start")
	return s
}

// archives are how often each archive was asked for.
func (n *nginxServer) archives(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile(n.log)
	require.NoError(t, err)
	asked := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if _, rest, ok := strings.Cut(line, `"GET /nar/`); ok {
			name, _, _ := strings.Cut(rest, " ")
			asked[name]++
		}
	}
	return asked
}

// Each release copies a closure through the server, trusting the upstream's key alone; again while there is no upstream,
// trusting ours alone; and from the directory where it was kept, without either.
func TestEveryReleaseCopiesTheClosureOfAnUpstream(t *testing.T) {
	top, _ := someClosure(t)
	maker := realnix.Get(t, "2.8")
	paths := strings.Fields(maker.Run(t, "nix-store", "--query", "--requisites", top))
	key := newKey(t, "origin-1")
	keyFile := filepath.Join(t.TempDir(), "key")
	require.NoError(t, key.WriteFile(keyFile))
	flat := t.TempDir()
	maker.Run(t, "nix", "copy", "--no-check-sigs", "--to", "file://"+flat+"?compression=zstd&secret-key="+keyFile, top)
	theirs := []string{"--option", "require-sigs", "true", "--option", "trusted-public-keys", key.Public().String()}

	for release, mode := range map[string]string{"2.8": "upload", "2.26": "own directory", "2.34": "another directory"} {
		t.Run(release, func(t *testing.T) {
			upstream := nginx(t, flat)
			flags := []string{"--upstream", upstream.URL, "--upstream-key", key.Public().String()}
			var s *server
			dir := t.TempDir()
			switch mode {
			case "upload":
				u := startUploadServer(t, flags...)
				s, dir = u.server, u.Bucket
			case "own directory":
				s, dir = startKeeping(t, flags...)
			case "another directory":
				s = startServer(t, append(flags, "--store", newBucket(t).URI(), "--keep", dir)...)
			}
			nix := realnix.Get(t, release)
			dest := nix.TempDir(t)
			nix.Run(t, "nix", append(theirs, "copy", "--from", s.URL, "--to", dest, top)...)
			nix.Run(t, "nix", append(theirs, "store", "verify", "--store", dest, "--recursive", "--sigs-needed", "1", top)...)
			s.hasKept(t, len(paths))
			asked := upstream.archives(t)
			require.Len(t, asked, len(filesOf(t, filepath.Join(flat, "nar"))))
			for name, n := range asked {
				require.Equal(t, 1, n, name)
			}

			upstream.stop()
			again := realnix.Get(t, release) // which remembers nothing
			again.Run(t, "nix", append(s.trusting(), "copy", "--from", s.URL, "--to", again.TempDir(t), top)...)

			copied := again.TempDir(t)
			require.NoError(t, os.CopyFS(again.Host(copied)+"/bucket", os.DirFS(dir)))
			again.Run(t, "nix", append(theirs, "copy", "--from", "file://"+copied+"/bucket", "--to", again.TempDir(t), top)...)
		})
	}
}
