package nixproto_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// shelf is a store in memory. It builds anything into the derivation's builder as a file's content.
type shelf struct {
	send func(nixproto.Event)

	mu    sync.Mutex // guards all below
	infos map[narinfo.StorePath]*nixproto.PathInfo
	nars  map[narinfo.StorePath][]byte
	roots []narinfo.StorePath
	real  map[string][]byte
	heard *nixproto.Settings
	added []nixproto.AddOptions
}

// shelfID is of what a shelf builds.
var shelfID = "sha256:" + strings.Repeat("0", 64) + "!out"

func newShelf() *shelf {
	return &shelf{
		send:  func(nixproto.Event) {},
		infos: make(map[narinfo.StorePath]*nixproto.PathInfo), nars: make(map[narinfo.StorePath][]byte),
		real: make(map[string][]byte),
	}
}

func (s *shelf) PathInfo(_ context.Context, path narinfo.StorePath) (*nixproto.PathInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if info := s.infos[path]; info != nil {
		return info, nil
	}
	return nil, store.ErrNotFound
}

func (s *shelf) ValidPaths(_ context.Context, paths []narinfo.StorePath, _ *nixproto.ValidPathsOptions) ([]narinfo.StorePath, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(paths), func(p narinfo.StorePath) bool { return s.infos[p] == nil }), nil
}

func (s *shelf) NARFromPath(_ context.Context, path narinfo.StorePath) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if nar, ok := s.nars[path]; ok {
		return io.NopCloser(bytes.NewReader(nar)), nil
	}
	return nil, store.ErrNotFound
}

func (s *shelf) put(info *nixproto.PathInfo, nar []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.infos[info.Info.StorePath], s.nars[info.Info.StorePath] = info, nar
}

func (s *shelf) AddMultipleToStore(ctx context.Context, paths nixproto.Source, o *nixproto.AddOptions) error {
	s.mu.Lock()
	s.added = append(s.added, *o)
	s.mu.Unlock()
	for {
		info, r, err := paths.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.Contains(info.Info.StorePath.Name(), "skip") {
			continue
		}
		if strings.Contains(info.Info.StorePath.Name(), "refuse") {
			return errors.New("refused")
		}
		nar, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		s.put(info, nar)
	}
}

func (s *shelf) AddToStore(_ context.Context, what *nixproto.Content, data io.Reader) (*nixproto.PathInfo, error) {
	text, err := io.ReadAll(data)
	if err != nil {
		return nil, err
	}
	info, nar := file(narinfo.StorePath("/nix/store/"+absentHash+"-"+what.Name), string(text))
	info.Info.References = what.References
	s.put(info, nar)
	return info, nil
}

func (s *shelf) BuildDerivation(
	ctx context.Context, path narinfo.StorePath, drv *nixproto.Derivation, mode nixproto.BuildMode,
) (*nixproto.BuildResult, error) {
	switch drv.Builder {
	case "panic":
		panic("in a handler")
	case "wait":
		<-ctx.Done()
		return nil, context.Cause(ctx)
	case "remote":
		return nil, &nixproto.RemoteError{Type: "Error", Level: 2, Message: "from afar", Trace: []string{"a", "b"}}
	}
	s.send(nixproto.Event{Kind: nixproto.EventStart, Activity: 1, Level: 3, Type: 105, Text: "building",
		Fields: []nixproto.Field{{Text: string(path), IsText: true}, {Number: uint64(mode)}}})
	for _, arg := range drv.Args {
		s.send(nixproto.Event{Kind: nixproto.EventResult, Activity: 1, Type: 101, Fields: []nixproto.Field{{Text: arg, IsText: true}}})
	}
	s.send(nixproto.Event{Kind: nixproto.EventStop, Activity: 1})
	for _, o := range drv.Outputs {
		info, nar := file(o.Path, strings.Join(drv.Args, " "))
		s.put(info, nar)
	}
	return &nixproto.BuildResult{
		Status: nixproto.Built, TimesBuilt: 1, NotDeterministic: true, Start: time.Unix(10, 0), Stop: time.Unix(12, 0),
		CPUUser: 3 * time.Millisecond, CPUSystem: time.Microsecond,
		Outputs: map[string][]byte{shelfID: []byte(`{"dependentRealisations":{},"id":"` + shelfID + `","outPath":"` + absent.Base() + `","signatures":[]}`)},
	}, nil
}

func (s *shelf) BuildPathsWithResults(
	_ context.Context, paths []nixproto.DerivedPath, _ nixproto.BuildMode,
) (results []nixproto.PathResult, err error) {
	for _, p := range paths {
		r := nixproto.PathResult{Path: p, BuildResult: nixproto.BuildResult{Status: nixproto.AlreadyValid}}
		if strings.Contains(p.Path.Name(), "failing") {
			r.Status, r.Message = nixproto.TimedOut, "too slow"
		}
		results = append(results, r)
	}
	return results, nil
}

func (s *shelf) Missing(_ context.Context, paths []nixproto.DerivedPath) (*nixproto.Missing, error) {
	return &nixproto.Missing{Unknown: []narinfo.StorePath{paths[0].Path}, DownloadSize: 1, NarSize: 2}, nil
}

func (s *shelf) EnsurePath(_ context.Context, path narinfo.StorePath) error {
	if s.infos[path] == nil {
		return errors.New("cannot be had")
	}
	return nil
}

func (s *shelf) AddTempRoot(_ context.Context, path narinfo.StorePath) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roots = append(s.roots, path)
	return nil
}

func (s *shelf) SetOptions(_ context.Context, settings *nixproto.Settings) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = settings
	return nil
}

func (s *shelf) Realisation(_ context.Context, id string) ([]byte, error) {
	if text, ok := s.real[id]; ok {
		return text, nil
	}
	return nil, store.ErrNotFound
}

func (s *shelf) RegisterRealisation(_ context.Context, text []byte) error {
	s.real["last"] = text
	return nil
}

func (s *shelf) DerivationOutputs(context.Context, narinfo.StorePath) (map[string]narinfo.StorePath, error) {
	return map[string]narinfo.StorePath{"out": absent, "doc": ""}, nil
}

func (s *shelf) ValidDerivers(context.Context, narinfo.StorePath) ([]narinfo.StorePath, error) {
	return []narinfo.StorePath{absent + ".drv"}, nil
}

func (s *shelf) PathFromHashPart(_ context.Context, hash narinfo.HashPart) (narinfo.StorePath, error) {
	for path := range s.infos {
		if path.HashPart() == hash {
			return path, nil
		}
	}
	return "", store.ErrNotFound
}

func (s *shelf) Referrers(context.Context, narinfo.StorePath) ([]narinfo.StorePath, error) {
	return nil, nil
}

func (s *shelf) AllValidPaths(context.Context) ([]narinfo.StorePath, error) {
	return slices.Sorted(maps.Keys(s.infos)), nil
}

func (s *shelf) AddSignatures(_ context.Context, path narinfo.StorePath, signatures []string) error {
	info := s.infos[path].Info
	for _, text := range signatures {
		info.Signatures = append(info.Signatures, signing.Signature(text))
	}
	return nil
}

// bare is a handler that can do no more than it must.
type bare struct{ s *shelf }

func (b bare) PathInfo(ctx context.Context, path narinfo.StorePath) (*nixproto.PathInfo, error) {
	return b.s.PathInfo(ctx, path)
}

func (b bare) ValidPaths(ctx context.Context, paths []narinfo.StorePath, o *nixproto.ValidPathsOptions) ([]narinfo.StorePath, error) {
	return b.s.ValidPaths(ctx, paths, o)
}

// file makes a path of one file.
func file(path narinfo.StorePath, content string) (*nixproto.PathInfo, []byte) {
	nar := wire("nix-archive-1", "(", "type", "regular", "contents", content, ")")
	sum := sha256.Sum256(nar)
	hash, _ := narinfo.NewHash(narinfo.SHA256, sum[:])
	return &nixproto.PathInfo{Info: &narinfo.Info{StorePath: path, NarHash: hash, NarSize: int64(len(nar))}}, nar
}

// upload makes a path with its archive to be added.
func upload(name, content string) nixproto.Upload {
	info, nar := file(narinfo.StorePath("/nix/store/"+absentHash+"-"+name), content)
	return nixproto.Upload{Info: info, Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(nar)), nil
	}}
}

// serveOnPipe serves a handler and returns the client's end, and what waits for Serve.
func serveOnPipe(
	ctx context.Context, open func(*nixproto.Session) nixproto.Handler, o *nixproto.ServerOptions,
) (client net.Conn, ended func() error) {
	client, server := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- nixproto.Serve(ctx, server, func(_ context.Context, s *nixproto.Session) (nixproto.Handler, error) {
			return open(s), nil
		}, o)
	}()
	return client, func() error { return <-done }
}

func dialPipe(t *testing.T, s *shelf, o *nixproto.ServerOptions, co *nixproto.Options) (*nixproto.Client, func() error) {
	t.Helper()
	conn, ended := serveOnPipe(t.Context(), func(session *nixproto.Session) nixproto.Handler {
		s.send = session.Send
		return s
	}, o)
	c, err := nixproto.NewClient(t.Context(), conn, co)
	require.NoError(t, err)
	return c, ended
}

var trusted = &nixproto.ServerOptions{Trust: nixproto.Trusted}

// TestClientAndServer asks everything by every version.
func TestClientAndServer(t *testing.T) {
	for minor := uint8(32); minor <= 38; minor++ {
		version := nixproto.Version{Major: 1, Minor: minor}
		t.Run("client "+version.String(), func(t *testing.T) {
			askEverything(t, version, trusted, &nixproto.Options{MaxVersion: version})
		})
		t.Run("server "+version.String(), func(t *testing.T) {
			askEverything(t, version, &nixproto.ServerOptions{Trust: nixproto.Trusted, MaxVersion: version}, new(nixproto.Options))
		})
	}
}

func askEverything(t *testing.T, version nixproto.Version, so *nixproto.ServerOptions, co *nixproto.Options) {
	ctx := t.Context()
	s := newShelf()
	log := new(eventLog)
	co.OnEvent = log.add
	c, ended := dialPipe(t, s, so, co)
	require.Equal(t, version, c.Peer().Version)
	require.Equal(t, version.AtLeast(1, 33), c.Peer().NixVersion == "nixtrap")
	require.Equal(t, version.AtLeast(1, 35), c.Peer().Trust == nixproto.Trusted)

	require.NoError(t, c.SetOptions(ctx, settings()))
	require.Equal(t, settings(), s.heard)

	list := []nixproto.Upload{upload("a", "A"), upload("skip", strings.Repeat("s", 1<<20)), upload("b", strings.Repeat("B", 1<<20))}
	list[2].Info.Info.References = []narinfo.StorePath{list[0].Info.Info.StorePath}
	list[2].Info.Ultimate = true
	list[2].Info.RegistrationTime = time.Unix(5, 0)
	require.NoError(t, c.AddMultipleToStore(ctx, nixproto.Uploads(list...), &nixproto.AddOptions{Repair: true, DontCheckSigs: true}))
	one := upload("one", "1")
	nar, _ := one.Open(ctx)
	require.NoError(t, c.AddToStoreNAR(ctx, one.Info, nar, nil))
	require.Equal(t, []nixproto.AddOptions{{Repair: true, DontCheckSigs: true}, {}}, s.added)
	for _, u := range []nixproto.Upload{list[0], list[2], one} {
		path := u.Info.Info.StorePath
		got, err := c.PathInfo(ctx, path)
		require.NoError(t, err)
		require.Equal(t, u.Info, got)
		want, _ := u.Open(ctx)
		text, _ := io.ReadAll(want)
		require.Equal(t, string(text), readAll(t, c, path))
	}
	valid, err := c.ValidPaths(ctx, []narinfo.StorePath{absent, list[0].Info.Info.StorePath}, &nixproto.ValidPathsOptions{Lock: true})
	require.NoError(t, err)
	require.Equal(t, []narinfo.StorePath{list[0].Info.Info.StorePath}, valid)
	require.Len(t, s.roots, 2)
	_, err = c.NARFromPath(ctx, absent)
	require.ErrorIs(t, err, store.ErrNotFound)

	content := &nixproto.Content{Name: "content", Method: "text:sha256", References: []narinfo.StorePath{absent}}
	added, err := c.AddToStore(ctx, content, strings.NewReader("hello"))
	require.NoError(t, err)
	require.Equal(t, []narinfo.StorePath{absent}, added.Info.References)

	result, err := c.BuildDerivation(ctx, absent+".drv", &nixproto.Derivation{Args: []string{"one", "two"}}, nixproto.BuildCheck)
	require.NoError(t, err)
	require.Equal(t, "one\ntwo\n", log.lines())
	require.Equal(t, version.AtLeast(1, 37), result.CPUUser == 3*time.Millisecond && result.CPUSystem == time.Microsecond)
	require.Equal(t, []any{time.Unix(10, 0), time.Unix(12, 0), true}, []any{result.Start, result.Stop, result.NotDeterministic})
	outputs, err := result.OutputPaths("/nix/store")
	require.NoError(t, err)
	require.Equal(t, map[string]narinfo.StorePath{"out": absent}, outputs)

	derived := []nixproto.DerivedPath{{Path: absent + ".drv", Outputs: []string{"*"}}, {Path: absent}}
	require.NoError(t, c.BuildPaths(ctx, derived, nixproto.BuildNormal))
	derived[1] = nixproto.DerivedPath{Path: absent + "-failing.drv", Outputs: []string{"doc", "out"}}
	results, err := c.BuildPathsWithResults(ctx, derived, nixproto.BuildNormal)
	if version.AtLeast(1, 34) {
		require.NoError(t, err)
		require.Equal(t, derived[1], results[1].Path)
		require.Equal(t, nixproto.TimedOut, results[1].Status)
	} else {
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
	missing, err := c.Missing(ctx, derived)
	require.NoError(t, err)
	require.Equal(t, &nixproto.Missing{Unknown: []narinfo.StorePath{absent + ".drv"}, DownloadSize: 1, NarSize: 2}, missing)

	require.NoError(t, c.RegisterRealisation(ctx, []byte(`{}`)))
	text, err := c.Realisation(ctx, "last")
	require.NoError(t, err)
	require.Equal(t, "{}", string(text))
	_, err = c.Realisation(ctx, "other")
	require.ErrorIs(t, err, store.ErrNotFound)
	path, err := c.PathFromHashPart(ctx, absentHash)
	require.NoError(t, err)
	require.Contains(t, s.infos, path)
	_, err = c.PathFromHashPart(ctx, narinfo.HashPart(strings.Repeat("1", 32)))
	require.ErrorIs(t, err, store.ErrNotFound)
	drvInfo, _ := file(absent+".drv", "")
	s.put(drvInfo, nil)
	outs, err := c.DerivationOutputs(ctx, absent+".drv")
	require.NoError(t, err)
	require.Equal(t, map[string]narinfo.StorePath{"out": absent, "doc": ""}, outs)
	derivers, err := c.ValidDerivers(ctx, absent)
	require.NoError(t, err)
	require.Equal(t, []narinfo.StorePath{absent + ".drv"}, derivers)
	referrers, err := c.Referrers(ctx, absent)
	require.NoError(t, err)
	require.Empty(t, referrers)
	all, err := c.AllValidPaths(ctx)
	require.NoError(t, err)
	require.Len(t, all, 5)
	require.NoError(t, c.AddSignatures(ctx, list[0].Info.Info.StorePath, []string{"k:s"}))
	require.NoError(t, c.EnsurePath(ctx, list[0].Info.Info.StorePath))
	require.ErrorContains(t, c.BuildPaths(ctx, derived, nixproto.BuildNormal), "too slow")
	require.NoError(t, c.Close())
	require.NoError(t, ended())
}

// A handler's failure is one operation's: what follows on the connection is answered.
func TestServerGoesOn(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	tests := []struct {
		name  string
		asks  []byte
		words string
	}{
		{"error", buildRequest("remote"), "from afar"},
		{"panic", buildRequest("panic"), "internal error"},
		{"not able", wire(26, string(absent)), ""},
		{"refused upload", slices.Concat(wire(44, 0, 0), frames(wire(2), addition(upload("refuse", big)), addition(upload("b", big)))), "refused"},
		{"no archive", slices.Concat(wire(44, 0, 0), frames(wire(1), additionHead(upload("a", big)), wire("nix-archive-2", huge))), "out of place"},
		{"archive too short", slices.Concat(wire(44, 0, 0), frames(wire(1), additionHead(upload("a", "12345678")), upload2("a", ""))), "not as long"},
		{"archive too long", slices.Concat(wire(44, 0, 0), frames(wire(1), additionHead(upload("a", "")), upload2("a", big))), "not as long"},
		{"archive cut off", slices.Concat(wire(44, 0, 0), frames(wire(1), additionHead(upload("a", big)), wire("nix-archive-1"))), "unexpected EOF"},
		{"more paths than said", slices.Concat(wire(44, 0, 0), frames(wire(1), addition(upload("a", big)), addition(upload("b", big)))), ""},
		{"fewer paths than said", slices.Concat(wire(44, 0, 0), frames(wire(huge), addition(upload("a", big)))), "unexpected EOF"},
		{"metadata of a lie", slices.Concat(wire(44, 0, 0), frames(wire(1, huge))), "longer than"},
	}
	for _, test := range tests {
		inBubble(t, test.name, func(t *testing.T) {
			var panics []any
			conn, ended := serveOnPipe(t.Context(), func(*nixproto.Session) nixproto.Handler { return newShelf() },
				&nixproto.ServerOptions{Trust: nixproto.Trusted, OnPanic: func(v any, _ []byte) { panics = append(panics, v) }})
			says := talk(t, conn, slices.Concat(hello, test.asks, wire(1, string(absent))))
			require.NoError(t, ended())
			require.Contains(t, string(says), test.words)
			require.True(t, bytes.HasSuffix(says, wire(last, 0)), "%q", says)
			require.Equal(t, test.name == "panic", len(panics) == 1)
		})
	}
}

// inBubble runs a test that fails if it leaves a goroutine, and whose clock does not wait.
func inBubble(t *testing.T, name string, run func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, run) })
}

// hello is how a client of 1.38 begins.
var hello = wire(0x6e697863, 0x126, 0, 0, 0)

func buildRequest(builder string) []byte {
	return wire(36, string(absent)+".drv", 1, "out", string(absent), "", "", 0, "x86_64-linux", builder, 0, 0, 0)
}

// frames makes one frame of each part, and the last one.
func frames(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = slices.Concat(all, wire(len(p)), p)
	}
	return append(all, wire(0)...)
}

func additionHead(u nixproto.Upload) []byte {
	i := u.Info.Info
	return wire(string(i.StorePath), "", i.NarHash.Base16(), 0, 0, int(i.NarSize), 0, 0, "")
}

func upload2(name, content string) []byte {
	nar, _ := upload(name, content).Open(context.Background())
	text, _ := io.ReadAll(nar)
	return text
}

func addition(u nixproto.Upload) []byte {
	nar, _ := u.Open(context.Background())
	text, _ := io.ReadAll(nar)
	return append(additionHead(u), text...)
}

// talk says all, and returns what it hears until a while after that; then it leaves.
func talk(t *testing.T, conn net.Conn, says []byte) []byte {
	t.Helper()
	var heard []byte
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			n, err := conn.Read(buf)
			heard = append(heard, buf[:n]...)
			if err != nil {
				return
			}
		}
	}()
	conn.Write(says)
	<-done
	conn.Close()
	return heard
}

// What cannot be understood ends a session, with the reason said.
func TestHostileClients(t *testing.T) {
	tests := []struct {
		name  string
		says  []byte
		words string // heard, and in the error
	}{
		{"nothing", nil, ""},
		{"another protocol", []byte("GET / HTTP/1.1\r\n\r\n"), "magic number"},
		{"a server's magic", wire(magic, 0x126), "magic number"},
		{"another major", wire(0x6e697863, 0x226), "no version"},
		{"no version", wire(0x6e697863, huge), "no version"},
		{"too old", wire(0x6e697863, 0x11f, 0, 0), "client speaks 1.31"},
		{"giant feature list", wire(0x6e697863, 0x126, huge), "list of"},
		{"giant feature", wire(0x6e697863, 0x126, 1, huge), "string of"},
		{"unknown operation", slices.Concat(hello, wire(99)), "operation 99"},
		{"giant operation", slices.Concat(hello, wire(huge)), "is not known"},
		{"giant path", slices.Concat(hello, wire(1, huge)), "string of"},
		{"length of 2^63", slices.Concat(hello, wire(1, uint64(1<<63))), "string of"},
		{"length that wraps around", slices.Concat(hello, wire(1, ^uint64(0))), "string of"},
		{"path of a megabyte", slices.Concat(hello, wire(1, 1<<19), make([]byte, 100)), ""},
		{"no path", slices.Concat(hello, wire(1, "/etc/passwd")), "/etc/passwd"},
		{"padding not zero", slices.Concat(hello, append(wire(1, 1), "a\x00\x00\x00\x00\x00\x00b"...)), "padding"},
		{"giant path list", slices.Concat(hello, wire(31, huge)), "list of"},
		{"path list of a lie", slices.Concat(hello, wire(31, 1<<20)), ""},
		{"no boolean", slices.Concat(hello, wire(31, 0, 2)), "no boolean"},
		{"giant outputs", slices.Concat(hello, wire(36, string(absent), huge)), "list of"},
		{"output twice", slices.Concat(hello, wire(36, string(absent), 2, "out", "", "", "", "out", "", "", "")), "twice"},
		{"giant environment", slices.Concat(hello, wire(36, string(absent), 0, 0, "", "", 0, huge)), "list of"},
		{"giant variable", slices.Concat(hello, wire(36, string(absent), 0, 0, "", "", 0, 1, "x", huge)), "string of"},
		{"variable of a lie", slices.Concat(hello, wire(36, string(absent), 0, 0, "", "", 0, 1, "x", 60<<20)), ""},
		{"unknown mode", slices.Concat(hello, wire(36, string(absent), 0, 0, "", "", 0, 0, 3)), "build mode 3"},
		{"no derived path", slices.Concat(hello, wire(46, 1, string(absent)+"!out")), "derived path"},
		{"no output", slices.Concat(hello, wire(46, 1, string(absent)+".drv!")), "derived path"},
		{"giant frame", slices.Concat(hello, wire(44, 0, 0, ^uint64(0))), "frame of"},
		{"frame of a lie", slices.Concat(hello, wire(44, 0, 0, uint64(1<<60), 1)), ""},
		{"no hash part", slices.Concat(hello, wire(29, "short")), "hash part"},
		{"aeons of silence", slices.Concat(hello, wire(19, 0, 0, 0, 0, 0, uint64(1<<62), 0, 0, 0, 0, 0, 0, 0)), "seconds"},
		{"negative size", slices.Concat(hello, wire(39, string(absent), "", strings.Repeat("ab", 32), 0, 0, -1)), "too large"},
	}
	for _, test := range tests {
		inBubble(t, test.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			conn, ended := serveOnPipe(t.Context(), func(*nixproto.Session) nixproto.Handler { return newShelf() }, nil)
			says := talk(t, conn, test.says)
			err := ended()
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(2<<20), "bytes of memory taken")
			if test.words == "" {
				require.NotErrorIs(t, err, nixproto.ErrProtocol)
				return
			}
			require.ErrorContains(t, err, test.words)
			if bytes.HasPrefix(test.says, hello) {
				require.Contains(t, string(says), test.words)
			}
		})
	}
}

// A client that leaves ends the context of whatever runs, in each state.
func TestClientLeaves(t *testing.T) {
	everything := slices.Concat(hello, wire(1, string(absent)),
		wire(44, 1, 1), frames(wire(2), addition(upload("a", "a")), addition(upload("b", "b"))), buildRequest("wait"))
	for n := range everything {
		synctest.Test(t, func(t *testing.T) {
			conn, ended := serveOnPipe(t.Context(), func(*nixproto.Session) nixproto.Handler { return newShelf() }, trusted)
			go io.Copy(io.Discard, conn)
			conn.Write(everything[:n])
			synctest.Wait()
			conn.Close()
			synctest.Wait()
			err := ended()
			require.NotErrorIs(t, err, nixproto.ErrProtocol, "after %d bytes", n)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		c, ended := dialPipe(t, newShelf(), trusted, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		begun := time.Now()
		_, err := c.BuildDerivation(ctx, absent, &nixproto.Derivation{Builder: "wait"}, nixproto.BuildNormal)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, ended(), "client left")
		require.Equal(t, time.Hour, time.Since(begun))
	})
}

// Frames without end, behind a refusal or not, cost no memory, and end with the client.
func TestEndlessFrames(t *testing.T) {
	for _, name := range []string{"refuse", "skip"} {
		inBubble(t, name, func(t *testing.T) {
			conn, ended := serveOnPipe(t.Context(), func(*nixproto.Session) nixproto.Handler { return newShelf() }, trusted)
			go io.Copy(io.Discard, conn)
			u := upload(name, "")
			u.Info.Info.NarSize = 1 << 40
			conn.Write(slices.Concat(hello, wire(44, 0, 0)))
			for _, part := range [][]byte{wire(1), additionHead(u), wire("nix-archive-1", "(", "type", "regular", "contents", uint64(1<<40))} {
				conn.Write(slices.Concat(wire(len(part)), part))
			}
			frame := slices.Concat(wire(1<<16), make([]byte, 1<<16))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 1000 {
				_, err := conn.Write(frame)
				require.NoError(t, err)
			}
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20), "bytes of memory taken")
			conn.Close()
			require.ErrorContains(t, ended(), "client left")
		})
	}
}

// The end of the server's own context ends the session, whatever the client does.
func TestServerIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		conn, ended := serveOnPipe(ctx, func(*nixproto.Session) nixproto.Handler { return newShelf() }, nil)
		go io.Copy(io.Discard, conn)
		conn.Write(hello)
		stop := errors.New("shutting down")
		cancel(stop)
		require.ErrorIs(t, ended(), stop)
	})
}

// A handler that floods a client that does not read waits until that leaves.
func TestClientDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, ended := serveOnPipe(t.Context(), func(s *nixproto.Session) nixproto.Handler {
			h := newShelf()
			h.send = s.Send
			return h
		}, trusted)
		go io.ReadFull(conn, make([]byte, 8*8)) // the greeting
		conn.Write(slices.Concat(hello, buildRequest("")))
		synctest.Wait()
		conn.Close()
		require.Error(t, ended())
	})
}

// What a handler cannot do is said, and what a client is not trusted with.
func TestServerRefuses(t *testing.T) {
	tests := []struct {
		name  string
		asks  []byte
		words string
	}{
		{"NAR", wire(38, string(absent)), "unsupported operation"},
		{"add", slices.Concat(wire(44, 0, 0), frames(wire(1), addition(upload("a", "a")))), "unsupported operation"},
		{"content", slices.Concat(wire(7, "n", "text:sha256", 0, 0), frames([]byte("x"))), "unsupported operation"},
		{"build", buildRequest(""), "unsupported operation"},
		{"temporary root", wire(11, string(absent)), "unsupported operation"},
		{"realisation", wire(43, "x"), "unsupported operation"},
		{"settings", wire(19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), ""},
	}
	for _, test := range tests {
		inBubble(t, test.name, func(t *testing.T) {
			conn, ended := serveOnPipe(t.Context(), func(*nixproto.Session) nixproto.Handler { return bare{newShelf()} }, nil)
			says := talk(t, conn, slices.Concat(hello, test.asks, wire(1, string(absent))))
			require.NoError(t, ended())
			require.Contains(t, string(says), test.words)
			require.True(t, bytes.HasSuffix(says, wire(last, 0)), "%q", says)
		})
	}
	distrusted := []struct {
		name  string
		asks  []byte
		words string
	}{
		{"input-addressed build", buildRequest(""), "does not trust"},
		{"repair", slices.Concat(wire(44, 1, 0), frames(wire(1), addition(upload("a", "a")))), "does not trust"},
		{"repair by a build", wire(46, 0, 1), "does not trust"},
	}
	for _, test := range distrusted {
		inBubble(t, test.name, func(t *testing.T) {
			conn, ended := serveOnPipe(t.Context(), func(*nixproto.Session) nixproto.Handler { return newShelf() }, nil)
			says := talk(t, conn, slices.Concat(hello, test.asks))
			require.NoError(t, ended())
			require.Contains(t, string(says), test.words)
		})
	}
	s := newShelf()
	c, _ := dialPipe(t, s, nil, nil)
	a := upload("a", "a")
	a.Info.Ultimate = true
	require.NoError(t, c.AddMultipleToStore(t.Context(), nixproto.Uploads(a), &nixproto.AddOptions{DontCheckSigs: true}))
	require.Equal(t, []nixproto.AddOptions{{}}, s.added)
	require.False(t, s.infos[a.Info.Info.StorePath].Ultimate)
	require.NoError(t, c.Close())
}
