package nixproto_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

var update = flag.Bool("update", false, "record testdata/sessions anew from real daemons")

// session is a recorded conversation with a real daemon, what was asked and what came out.
type session struct {
	Fixture    fixture
	Answers    []answer
	Transcript []chunk
}

// answer is a query's result as JSON, or its error.
type answer struct{ Query, Result string }

// chunk is a run of bytes in one direction.
type chunk struct {
	FromDaemon bool
	Bytes      []byte
}

// MarshalText writes "> " (to the daemon) or "< " (from it) and a quoted string.
func (c chunk) MarshalText() ([]byte, error) {
	direction := "> "
	if c.FromDaemon {
		direction = "< "
	}
	return strconv.AppendQuoteToASCII([]byte(direction), string(c.Bytes)), nil
}

func (c *chunk) UnmarshalText(text []byte) error {
	quoted, err := strconv.Unquote(string(text[2:]))
	c.FromDaemon, c.Bytes = text[0] == '<', []byte(quoted)
	return err
}

const absentHash = "00000000000000000000000000000000"

var absent = narinfo.StorePath("/nix/store/" + absentHash + "-absent")

// script is one conversation. ask stops it by returning false.
type script func(ctx context.Context, c *nixproto.Client, f fixture, ask func(query string, result any, err error) bool)

var scripts = map[string]script{
	"queries": askQueries, "vanished": askVanished, "foreign": askForeign, "builds": askWorkerBuilds,
}

// askQueries asks everything that leaves the connection whole.
func askQueries(ctx context.Context, c *nixproto.Client, f fixture, ask func(string, any, error) bool) {
	peer := c.Peer()
	ok := ask("peer", peer, nil)
	for _, path := range []narinfo.StorePath{f.Base, f.Top, f.Doc, f.TopDrv, f.Addressed, absent} {
		if ok {
			info, err := c.PathInfo(ctx, path)
			ok = ask("path info "+path.Name(), info, err)
		}
	}
	queries := []struct {
		name string
		run  func() (any, error)
	}{
		{"hash part", func() (any, error) { return c.PathFromHashPart(ctx, f.Top.HashPart()) }},
		{"absent hash part", func() (any, error) { return c.PathFromHashPart(ctx, absentHash) }},
		{"valid", func() (any, error) { return c.IsValidPath(ctx, f.Top) }},
		{"not valid", func() (any, error) { return c.IsValidPath(ctx, absent) }},
		{"referrers", func() (any, error) { return c.Referrers(ctx, f.Doc) }},
		{"referrers of absent", func() (any, error) { return c.Referrers(ctx, absent) }},
		{"all", func() (any, error) { return c.AllValidPaths(ctx) }},
		{"derivers", func() (any, error) { return c.ValidDerivers(ctx, f.Doc) }},
		{"outputs", func() (any, error) { return c.DerivationOutputs(ctx, f.TopDrv) }},
		{"outputs of content-addressed", func() (any, error) { return c.DerivationOutputs(ctx, f.AddressedDrv) }},
		{"outputs of absent", func() (any, error) { return c.DerivationOutputs(ctx, absent+".drv") }},
		{"realisation", func() (any, error) { return realisation(ctx, c, f.RealisationID) }},
		{"absent realisation", func() (any, error) {
			return realisation(ctx, c, "sha256:"+strings.Repeat("0", 64)+"!out")
		}},
		{"NAR", func() (any, error) { return readNAR(ctx, c, f.Top) }},
		{"absent NAR", func() (any, error) { return readNAR(ctx, c, absent) }},
		{"after NAR", func() (any, error) { return c.IsValidPath(ctx, f.Top) }},
	}
	for _, q := range queries {
		if ok {
			result, err := q.run()
			ok = ask(q.name, result, err)
		}
	}
}

// askVanished asks for a valid path whose file is gone: the error comes amid the NAR.
func askVanished(ctx context.Context, c *nixproto.Client, f fixture, ask func(string, any, error) bool) {
	result, err := readNAR(ctx, c, f.Vanished)
	ask("vanished NAR", result, err)
}

// askForeign asks for a path of another store directory.
func askForeign(ctx context.Context, c *nixproto.Client, f fixture, ask func(string, any, error) bool) {
	valid, err := c.IsValidPath(ctx, "/other/store/"+absentHash+"-x")
	ask("foreign path", valid, err)
}

func realisation(ctx context.Context, c *nixproto.Client, id string) (string, error) {
	text, err := c.Realisation(ctx, id)
	return string(text), err
}

// readNAR returns an archive's size and SHA-256.
func readNAR(ctx context.Context, c *nixproto.Client, path narinfo.StorePath) (string, error) {
	nar, err := c.NARFromPath(ctx, path)
	if err != nil {
		return "", err
	}
	defer nar.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, nar)
	return fmt.Sprintf("%d bytes, sha256:%x", n, sum.Sum(nil)), err
}

// converse runs a script and gathers its answers. Other failures than absence end it.
func converse(ctx context.Context, conn io.ReadWriteCloser, f fixture, run script) (answers []answer, failure error) {
	log := new(eventLog)
	c, err := nixproto.NewClient(ctx, conn, &nixproto.Options{MaxReply: 1 << 20, OnEvent: log.add})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var n notes
	run(ctx, c, f, n.ask)
	if text := log.lines(); text != "" {
		n.ask("log", text, nil)
	}
	return n.answers, n.failure
}

// notes gather a script's answers. Other failures than absence end it.
type notes struct {
	answers []answer
	failure error
}

func (n *notes) ask(query string, result any, err error) bool {
	a := answer{Query: query, Result: render(result)}
	if err != nil {
		a.Result = "error: " + err.Error()
	}
	n.answers = append(n.answers, a)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		n.failure = err
	}
	return n.failure == nil
}

// render gives a result as JSON.
func render(result any) string {
	if info, ok := result.(*nixproto.PathInfo); ok && info != nil {
		result = likeNix(info)
	}
	text, err := json.Marshal(result)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// recorder keeps what passes through a connection.
type recorder struct {
	io.ReadWriteCloser

	mu         sync.Mutex // guards all below
	transcript []chunk
}

func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.ReadWriteCloser.Read(p)
	r.add(true, p[:n])
	return n, err
}

func (r *recorder) Write(p []byte) (int, error) {
	r.add(false, p)
	return r.ReadWriteCloser.Write(p)
}

func (r *recorder) add(fromDaemon bool, p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(r.transcript) - 1
	switch {
	case len(p) == 0:
	case last >= 0 && r.transcript[last].FromDaemon == fromDaemon:
		r.transcript[last].Bytes = append(r.transcript[last].Bytes, p...)
	default:
		r.transcript = append(r.transcript, chunk{fromDaemon, bytes.Clone(p)})
	}
}

func sessionFile(release, name string) string {
	return "testdata/sessions/" + release + "-" + name + ".json"
}

func record(t *testing.T, d *realDaemon) {
	for name, run := range scripts {
		conn, err := net.Dial("unix", d.socket)
		require.NoError(t, err)
		r := &recorder{ReadWriteCloser: conn}
		answers, _ := converse(t.Context(), r, d.fixture, run)
		save(t, sessionFile(d.nix.Release, name), session{d.fixture, answers, r.transcript})
	}
}

func save(t *testing.T, file string, value any) {
	t.Helper()
	text, err := json.MarshalIndent(value, "", "\t")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, append(text, '\n'), 0o644))
}

func load[T any](t testing.TB, file string) (value T) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &value), file)
	return value
}

func loadSession(t testing.TB, release, name string) session {
	t.Helper()
	return load[session](t, sessionFile(release, name))
}

// daemonBytes returns all that the daemon said.
func (s session) daemonBytes() []byte {
	var all []byte
	for _, c := range s.Transcript {
		if c.FromDaemon {
			all = append(all, c.Bytes...)
		}
	}
	return all
}

// replay plays the daemon, insisting on the recorded requests.
func (s session) replay(conn net.Conn) error { return replay(conn, s.Transcript, true) }

// replay plays one side of a conversation, insisting on the other's recorded words.
func replay(conn net.Conn, transcript []chunk, daemon bool) error {
	defer conn.Close()
	for i, c := range transcript {
		if c.FromDaemon == daemon {
			if _, err := conn.Write(c.Bytes); err != nil {
				return err
			}
			continue
		}
		got := make([]byte, len(c.Bytes))
		if _, err := io.ReadFull(conn, got); err != nil {
			return err
		}
		if !bytes.Equal(got, c.Bytes) {
			return fmt.Errorf("chunk %d: other side says %q, recorded %q", i, got, c.Bytes)
		}
	}
	return nil
}

func TestRecordedSessions(t *testing.T) {
	for _, release := range realnix.Releases() {
		for name, run := range scripts {
			t.Run(release+" "+name, func(t *testing.T) {
				s := loadSession(t, release, name)
				client, daemon := net.Pipe()
				played := make(chan error, 1)
				go func() { played <- s.replay(daemon) }()
				answers, _ := converse(t.Context(), client, s.Fixture, run)
				client.Close()
				require.NoError(t, <-played)
				require.Equal(t, s.Answers, answers)
			})
		}
	}
}

func TestRecordedPeers(t *testing.T) {
	tests := map[string]nixproto.Peer{
		"2.8":  {Offered: nixproto.Version{Major: 1, Minor: 34}, NixVersion: "2.8.0"},
		"2.26": {Offered: nixproto.Version{Major: 1, Minor: 38}, NixVersion: "2.26.3", Trust: nixproto.Trusted},
		"2.34": {Offered: nixproto.Version{Major: 1, Minor: 38}, NixVersion: "2.34.8", Trust: nixproto.Trusted},
	}
	for release, want := range tests {
		t.Run(release, func(t *testing.T) {
			want.Version = want.Offered
			text, err := json.Marshal(want)
			require.NoError(t, err)
			require.Equal(t, answer{"peer", string(text)}, loadSession(t, release, "queries").Answers[0])
		})
	}
}

// A daemon that cannot pack a path says so amid the archive.
func TestErrorAmidNAR(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			s := loadSession(t, release, "vanished")
			_, err := converse(t.Context(), deafConn(s.daemonBytes()), s.Fixture, askVanished)
			remote, ok := errors.AsType[*nixproto.RemoteError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, "Error", remote.Type)
			require.Contains(t, remote.Message, string(s.Fixture.Vanished))
		})
	}
}
