package nixproto_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// daemonOn plays a daemon on a pipe without any room: who writes waits until the other reads.
func daemonOn(t *testing.T, play func(net.Conn)) (*nixproto.Client, *eventLog) {
	t.Helper()
	client, daemon := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer daemon.Close()
		io.ReadFull(daemon, make([]byte, 16)) // the client's magic and version
		daemon.Write(greeting[:16])
		io.ReadFull(daemon, make([]byte, 8))
		daemon.Write(greeting[16:24])
		io.ReadFull(daemon, make([]byte, 16))
		daemon.Write(greeting[24:])
		play(daemon)
	})
	log := new(eventLog)
	c, err := nixproto.NewClient(t.Context(), client, &nixproto.Options{OnEvent: log.add})
	require.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		wg.Wait()
	})
	return c, log
}

// A daemon that speaks before it listens is heard, to the last word.
func TestUploadHearsTheDaemon(t *testing.T) {
	big := upload("big", strings.Repeat("x", 1<<20))
	tests := []struct {
		name  string
		play  func(net.Conn)
		words string // of a RemoteError
	}{
		{"log, then success", func(d net.Conn) {
			chatAndEnd(d, 1000, nil)
			io.Copy(io.Discard, io.LimitReader(d, 24+8+int64(1<<20)))
			d.Write(wire(last))
			io.Copy(io.Discard, d)
		}, ""},
		{"log, then error, and no more reading", func(d net.Conn) {
			chatAndEnd(d, 1000, wire(failed, "Error", 0, "", "no room", 0, 0))
		}, "no room"},
		{"error amid the upload", func(d net.Conn) {
			io.ReadFull(d, make([]byte, 200<<10))
			chatAndEnd(d, 1000, wire(failed, "Error", 0, "", "no room", 0, 0))
		}, "no room"},
	}
	for _, test := range tests {
		inBubble(t, test.name, func(t *testing.T) {
			c, log := daemonOn(t, test.play)
			err := c.AddMultipleToStore(t.Context(), nixproto.Uploads(big), nil)
			if test.words == "" {
				require.NoError(t, err)
			} else {
				remote, ok := errors.AsType[*nixproto.RemoteError](err)
				require.True(t, ok, "%v", err)
				require.Equal(t, test.words, remote.Message)
			}
			require.Equal(t, strings.Repeat("still here\n", 1000), log.lines())
		})
	}
}

func chatAndEnd(d net.Conn, lines int, end []byte) {
	for range lines {
		d.Write(wire(line, "still here\n"))
	}
	d.Write(end)
}

// A source that fails ends the upload with its own words.
func TestUploadOfABrokenSource(t *testing.T) {
	broken := errors.New("disk on fire")
	short, long := upload("short", "x"), upload("long", "x")
	short.Info.Info.NarSize += 8
	long.Info.Info.NarSize -= 8
	tests := []struct {
		name  string
		list  []nixproto.Upload
		is    error
		words string
	}{
		{"does not open", []nixproto.Upload{{Info: upload("a", "a").Info, Open: func(context.Context) (io.ReadCloser, error) {
			return nil, broken
		}}}, broken, ""},
		{"does not read", []nixproto.Upload{{Info: upload("a", "a").Info, Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("nix"), failing{broken})), nil
		}}}, broken, ""},
		{"too short", []nixproto.Upload{short}, io.ErrUnexpectedEOF, "short"},
		{"too long", []nixproto.Upload{long}, nil, "longer than"},
		{"without a hash", []nixproto.Upload{{Info: func() *nixproto.PathInfo {
			i, _ := file(absent, "")
			i.Info.NarSize = 0
			return i
		}(), Open: long.Open}}, nil, "no SHA-256 or size"},
	}
	for _, test := range tests {
		inBubble(t, test.name, func(t *testing.T) {
			c, _ := daemonOn(t, func(d net.Conn) { io.Copy(io.Discard, d) })
			err := c.AddMultipleToStore(t.Context(), nixproto.Uploads(test.list...), nil)
			require.ErrorContains(t, err, test.words)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
			_, err = c.IsValidPath(t.Context(), absent)
			require.ErrorIs(t, err, nixproto.ErrClosed)
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// The end of a context ends an upload to a daemon that neither reads nor speaks.
func TestContextEndsUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := daemonOn(t, func(d net.Conn) { io.ReadFull(d, make([]byte, 100)); time.Sleep(time.Hour) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := c.AddMultipleToStore(ctx, nixproto.Uploads(upload("a", strings.Repeat("x", 1<<20))), nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestHostileResults(t *testing.T) {
	build := func(ctx context.Context, c *nixproto.Client) error {
		_, err := c.BuildDerivation(ctx, absent, new(nixproto.Derivation), nixproto.BuildNormal)
		return err
	}
	paths := func(ctx context.Context, c *nixproto.Client) error {
		_, err := c.BuildPathsWithResults(ctx, nil, nixproto.BuildNormal)
		return err
	}
	missing := func(ctx context.Context, c *nixproto.Client) error {
		_, err := c.Missing(ctx, nil)
		return err
	}
	tests := []struct {
		name  string
		ask   func(context.Context, *nixproto.Client) error
		says  []byte
		words string
	}{
		{"unknown status", build, wire(15), "build status 15"},
		{"giant message", build, wire(0, huge), "string of"},
		{"no boolean", build, wire(0, "", 1, 2), "no boolean"},
		{"time before all time", build, wire(0, "", 1, 0, -1), "too large"},
		{"time after all time", build, wire(0, "", 1, 0, uint64(1<<40)), "time of"},
		{"CPU is no option", build, wire(0, "", 1, 0, 0, 0, 2), "no boolean"},
		{"aeons of CPU", build, wire(0, "", 1, 0, 0, 0, 1, uint64(1<<60)), "CPU"},
		{"giant outputs", build, wire(0, "", 1, 0, 0, 0, 0, 0, huge), "list of"},
		{"output twice", build, wire(0, "", 1, 0, 0, 0, 0, 0, 2, "a", "", "a", ""), "twice"},
		{"giant list", paths, wire(huge), "list of"},
		{"no path", paths, wire(1, "x"), "derived path"},
		{"unknown path", missing, wire(0, 0, 1, "x"), "x"},
		{"negative size", missing, wire(0, 0, 0, -1), "too large"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := nixproto.NewClient(t.Context(), deafConn(slices.Concat(greeting, wire(last), test.says)), nil)
			require.NoError(t, err)
			err = test.ask(t.Context(), c)
			require.ErrorIs(t, err, nixproto.ErrProtocol)
			require.ErrorContains(t, err, test.words)
		})
	}
}

func TestHostileRealisations(t *testing.T) {
	for name, r := range map[string]map[string][]byte{
		"no output":    {"sha256:ab": []byte(`{}`)},
		"no JSON":      {"sha256:ab!out": []byte(`{`)},
		"no path":      {"sha256:ab!out": []byte(`{"outPath":"../../etc"}`)},
		"no path said": {"sha256:ab!out": []byte(`{}`)},
	} {
		_, err := (&nixproto.BuildResult{Outputs: r}).OutputPaths("/nix/store")
		require.Error(t, err, name)
	}
}

func TestDerivedPaths(t *testing.T) {
	drv := string(absent) + ".drv"
	for _, text := range []string{string(absent), drv, drv + "!*", drv + "!out", drv + "!doc,out"} {
		p, err := nixproto.ParseDerivedPath(text)
		require.NoError(t, err, text)
		require.Equal(t, text, p.String())
	}
	for _, text := range []string{"", "x", drv + "!", drv + "!a,", drv + "!a!b", string(absent) + "!out", drv + "^out"} {
		_, err := nixproto.ParseDerivedPath(text)
		require.Error(t, err, text)
	}
}

// legacyGreeting is how nix-store --serve begins.
var legacyGreeting = wire(0x5452eecb, 0x207)

func TestHostileServe(t *testing.T) {
	hash := "sha256:" + strings.Repeat("0", 52)
	greet := func(context.Context, *nixproto.LegacyClient) error { return nil }
	info := func(ctx context.Context, c *nixproto.LegacyClient) error {
		_, err := c.PathInfo(ctx, absent)
		return err
	}
	nar := func(ctx context.Context, c *nixproto.LegacyClient) error {
		r, err := c.NARFromPath(ctx, absent)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		return err
	}
	add := func(ctx context.Context, c *nixproto.LegacyClient) error {
		return c.AddMultipleToStore(ctx, nixproto.Uploads(upload("a", "a")), nil)
	}
	build := func(ctx context.Context, c *nixproto.LegacyClient) error {
		_, err := c.BuildDerivation(ctx, absent, new(nixproto.Derivation), nixproto.BuildNormal)
		return err
	}
	hi := legacyGreeting
	tests := []struct {
		name  string
		ask   func(context.Context, *nixproto.LegacyClient) error
		says  []byte
		is    error
		words string
	}{
		{"nothing", greet, nil, io.ErrUnexpectedEOF, ""},
		{"a banner", greet, []byte("Welcome to builder!\n"), nixproto.ErrProtocol, "magic number"},
		{"too old", greet, wire(0x5452eecb, 0x204), nixproto.ErrVersion, "speaks 2.4, need 2.5"},
		{"no version", greet, wire(0x5452eecb, huge), nixproto.ErrProtocol, "no version"},
		{"another path", info, slices.Concat(hi, wire(string(absent)+"x")), nixproto.ErrProtocol, "not asked for"},
		{"path twice", info, slices.Concat(hi, wire(string(absent), "", 0, 0, 120, hash, "", 0, string(absent))), nixproto.ErrProtocol, "not asked for"},
		{"no size", info, slices.Concat(hi, wire(string(absent), "", 0, 0, 0)), nixproto.ErrProtocol, "NAR size"},
		{"no hash", info, slices.Concat(hi, wire(string(absent), "", 0, 0, 120, "")), nixproto.ErrProtocol, "NAR hash"},
		{"giant references", info, slices.Concat(hi, wire(string(absent), "", huge)), nixproto.ErrProtocol, "list of"},
		{"error in a NAR's place", nar, slices.Concat(hi, wire(1, string(absent)), wire(failed)), nixproto.ErrProtocol, "string of"},
		{"death", nar, slices.Concat(hi, wire(1, string(absent)), wire("nix-archive-1")), io.ErrUnexpectedEOF, ""},
		{"no success", add, slices.Concat(hi, wire(0)), nixproto.ErrProtocol, "success is 0"},
		{"unknown status", build, slices.Concat(hi, wire(77)), nixproto.ErrProtocol, "build status 77"},
		{"no words", build, hi, io.ErrUnexpectedEOF, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, err := nixproto.NewLegacyClient(t.Context(), deafConn(test.says), nil)
			if err == nil {
				err = test.ask(t.Context(), c)
			}
			require.ErrorIs(t, err, test.is)
			require.ErrorContains(t, err, test.words)
		})
	}
}

func TestLegacySettings(t *testing.T) {
	c, err := nixproto.NewLegacyClient(t.Context(), deafConn(legacyGreeting), nil)
	require.NoError(t, err)
	require.Error(t, c.SetOptions(t.Context(), nil))
	require.ErrorContains(t, c.SetOptions(t.Context(), &nixproto.Settings{Overrides: map[string]string{"timeout": "soon"}}), "soon")
	require.NoError(t, c.SetOptions(t.Context(), &nixproto.Settings{Overrides: map[string]string{"timeout": "5"}}))
	_, err = c.BuildDerivation(t.Context(), absent, new(nixproto.Derivation), nixproto.BuildCheck)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	err = c.BuildPaths(t.Context(), []nixproto.DerivedPath{{Path: absent + ".drv"}}, nixproto.BuildNormal)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}

func TestContradictoryOptions(t *testing.T) {
	for name, o := range map[string]*nixproto.Options{
		"negative limit": {MaxReply: -1}, "old": {MaxVersion: nixproto.Version{Major: 1, Minor: 31}},
		"new": {MaxVersion: nixproto.Version{Major: 1, Minor: 39}}, "major": {MaxVersion: nixproto.Version{Major: 2, Minor: 35}},
	} {
		_, err := nixproto.NewClient(t.Context(), deafConn(greeting), o)
		require.ErrorContains(t, err, "Max", name)
	}
	for name, o := range map[string]*nixproto.ServerOptions{
		"negative limit": {MaxRequest: -1}, "version": {MaxVersion: nixproto.Version{Major: 1, Minor: 39}}, "trust": {Trust: 3},
	} {
		require.Error(t, nixproto.Serve(t.Context(), deafConn(nil), nil, o), name)
	}
}
