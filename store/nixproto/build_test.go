package nixproto_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/nix-community/go-nix/pkg/derivation"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// builds are derivations of all kinds, each with a source that must be on the builder.
const builds = `let
  src = builtins.toFile "source" "a source\n";
  make = name: script: more: derivation ({
    inherit name src; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; PATH = "/usr/bin:/bin";
  } // more);
in rec {
  plain = make "plain" "echo says $name; echo and more >&2; cat $src > $out" { };
  failing = make "failing" "echo about to fail; exit 3" { };
  fixed = make "fixed" "echo fixed > $out" {
    outputHashMode = "flat"; outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "fixed\n"; };
  wrong = make "wrong" "echo other > $out" {
    outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "fixed\n"; };
  several = make "several" "mkdir $out; echo $doc > $out/doc; cat $src > $doc" { outputs = [ "out" "doc" ]; };
  floating = make "floating" "echo floating > $out" {
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  structured = derivation { name = "structured"; system = builtins.currentSystem; builder = "/bin/sh"; __structuredAttrs = true;
    args = [ "-c" ''/usr/bin/sed 's/.*"text":"\([^"]*\)".*/\1/' "$NIX_ATTRS_JSON_FILE" > "$(
      /usr/bin/sed 's/.*"out":"\([^"]*\)".*/\1/' "$NIX_ATTRS_JSON_FILE")"'' ];
    text = "structured"; };
  dependent = make "dependent" "cat ${plain} ${several.doc} > $out; echo twice" { };
}`

// workshop is a client's store with derivations, by their names, and what it takes to build them elsewhere.
type workshop struct {
	*realDaemon
	drvs map[string]narinfo.StorePath
}

func newWorkshop(t *testing.T, nix realnix.Nix) *workshop {
	t.Helper()
	w := &workshop{emptyStore(t, nix), make(map[string]narinfo.StorePath)}
	require.NoError(t, os.WriteFile(nix.Host(w.dir+"/default.nix"), []byte(builds), 0o644))
	for _, path := range parsePaths(t, w.run(t, "nix-instantiate", "/nix/default.nix")) {
		w.drvs[strings.TrimSuffix(path.Name(), ".drv")] = path
	}
	return w
}

// derivation reads a .drv file as a stock client would send it, its inputs all being sources.
func (w *workshop) derivation(t *testing.T, name string) (narinfo.StorePath, *nixproto.Derivation) {
	t.Helper()
	path := w.drvs[name]
	text, err := os.ReadFile(w.nix.Host(w.dir + "/store/" + path.Base()))
	require.NoError(t, err)
	parsed, err := derivation.ReadDerivation(bytes.NewReader(text))
	require.NoError(t, err)
	drv := &nixproto.Derivation{
		Outputs: make(map[string]nixproto.Output), Platform: parsed.Platform, Builder: parsed.Builder,
		Env: parsed.Env,
	}
	for _, arg := range parsed.Arguments { // go-nix leaves them as they stand in the file
		drv.Args = append(drv.Args, strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(arg))
	}
	for name, o := range parsed.Outputs {
		drv.Outputs[name] = nixproto.Output{Path: narinfo.StorePath(o.Path), Algorithm: o.HashAlgorithm, Hash: o.Hash}
	}
	for _, src := range parsed.InputSources {
		drv.InputSrcs = append(drv.InputSrcs, narinfo.StorePath(src))
	}
	return path, drv
}

// upload returns paths of the client's store, read with Nix's own commands.
func (w *workshop) upload(t *testing.T, paths ...narinfo.StorePath) []nixproto.Upload {
	t.Helper()
	var list []nixproto.Upload
	for _, path := range paths {
		like := w.pathInfo(t, path)
		hash, err := narinfo.ParseHash(like.NarHash)
		require.NoError(t, err)
		list = append(list, nixproto.Upload{
			Info: &nixproto.PathInfo{Info: &narinfo.Info{
				StorePath: path, NarHash: hash, NarSize: like.NarSize, References: like.References,
				CA: narinfo.ContentAddress(like.CA),
			}},
			Open: func(context.Context) (io.ReadCloser, error) {
				dump, err := w.command(t, "nix-store", "--dump", string(path)).Output()
				return io.NopCloser(bytes.NewReader(dump)), err
			},
		})
	}
	return list
}

// builder is what both protocols are able to do alike.
type builder interface {
	SetOptions(ctx context.Context, s *nixproto.Settings) error
	ValidPaths(ctx context.Context, paths []narinfo.StorePath, o *nixproto.ValidPathsOptions) ([]narinfo.StorePath, error)
	PathInfo(ctx context.Context, path narinfo.StorePath) (*nixproto.PathInfo, error)
	NARFromPath(ctx context.Context, path narinfo.StorePath) (io.ReadCloser, error)
	AddToStoreNAR(ctx context.Context, info *nixproto.PathInfo, nar io.Reader, o *nixproto.AddOptions) error
	AddMultipleToStore(ctx context.Context, paths nixproto.Source, o *nixproto.AddOptions) error
	BuildDerivation(
		ctx context.Context, path narinfo.StorePath, drv *nixproto.Derivation, mode nixproto.BuildMode,
	) (*nixproto.BuildResult, error)
	BuildPaths(ctx context.Context, paths []nixproto.DerivedPath, mode nixproto.BuildMode) error
	Close() error
}

var (
	_ builder = (*nixproto.Client)(nil)
	_ builder = (*nixproto.LegacyClient)(nil)
)

// settings are an offloader's.
func settings() *nixproto.Settings {
	return &nixproto.Settings{
		Verbosity: 3, MaxJobs: 1, Cores: 1, MaxSilentTime: 60e9,
		Overrides: map[string]string{"builders": "", "timeout": "120", "sandbox": "false"},
	}
}

// way is a protocol at a version, as a test opens it.
type way struct {
	name string
	open func(t *testing.T, d *realDaemon, events *eventLog) (builder, func() string)
}

// ways speak with a builder by all versions and both protocols. The second result of open closes, and returns the log.
func ways() []way {
	var all []way
	for minor := uint8(32); minor <= 38; minor++ {
		version := nixproto.Version{Major: 1, Minor: minor}
		all = append(all, way{"worker " + version.String(), func(t *testing.T, d *realDaemon, events *eventLog) (builder, func() string) {
			conn := d.stdio(t, "nix-daemon", "--stdio")
			c, err := nixproto.NewClient(t.Context(), conn, &nixproto.Options{MaxVersion: version, OnEvent: events.add})
			require.NoError(t, err)
			return c, func() string {
				c.Close()
				return events.lines()
			}
		}})
	}
	return append(all, way{"serve", func(t *testing.T, d *realDaemon, _ *eventLog) (builder, func() string) {
		conn := d.stdio(t, "nix-store", "--serve", "--write")
		c, err := nixproto.NewLegacyClient(t.Context(), conn, nil)
		require.NoError(t, err)
		require.Equal(t, "2.7", c.Version().String())
		return c, func() string {
			c.Close()
			return conn.stderr.String()
		}
	}})
}

// eventLog keeps events.
type eventLog struct{ events []nixproto.Event }

func (l *eventLog) add(ev nixproto.Event) { l.events = append(l.events, ev) }

// lines returns the lines of builds' logs, and other lines.
func (l *eventLog) lines() string {
	var b strings.Builder
	for _, ev := range l.events {
		if text, ok := ev.LogLine(); ok {
			b.WriteString(text + "\n")
		} else if ev.Kind == nixproto.EventLog {
			b.WriteString(ev.Text)
		}
	}
	return b.String()
}

// TestRealBuilders builds everything by every way on every release: the results are those of a build at home.
func TestRealBuilders(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			nix := realnix.Get(t, release)
			w := newWorkshop(t, nix)
			for _, way := range ways() {
				t.Run(way.name, func(t *testing.T) { buildAll(t, w, emptyStore(t, nix), way) })
			}
		})
	}
}

func buildAll(t *testing.T, w *workshop, at *realDaemon, by way) {
	ctx := t.Context()
	b, log := by.open(t, at, new(eventLog))
	require.NoError(t, b.SetOptions(ctx, settings()))
	_, plain := w.derivation(t, "plain")
	src := plain.InputSrcs
	valid, err := b.ValidPaths(ctx, src, &nixproto.ValidPathsOptions{Lock: true, Substitute: true})
	require.NoError(t, err)
	require.Empty(t, valid)
	require.NoError(t, b.AddMultipleToStore(ctx, nixproto.Uploads(w.upload(t, src...)...), &nixproto.AddOptions{DontCheckSigs: true}))
	valid, err = b.ValidPaths(ctx, src, nil)
	require.NoError(t, err)
	require.Equal(t, src, valid)

	for _, name := range []string{"plain", "fixed", "several", "floating", "structured"} {
		path, drv := w.derivation(t, name)
		result, err := b.BuildDerivation(ctx, path, drv, nixproto.BuildNormal)
		require.NoError(t, err, name)
		require.Equal(t, nixproto.Built, result.Status, "%s: %s", name, result.Message)
		require.Equal(t, at.nix.Release != "2.34", !result.Start.IsZero(), "2.34 does not tell the time of %s", name)
		outputs, err := result.OutputPaths("/nix/store")
		require.NoError(t, err)
		require.Len(t, outputs, len(drv.Outputs), name)
		for output, path := range outputs {
			if want := drv.Outputs[output].Path; want != "" {
				require.Equal(t, want, path, name)
			}
			fetchAndCompare(t, b, at, path)
		}
		result, err = b.BuildDerivation(ctx, path, drv, nixproto.BuildNormal)
		require.NoError(t, err, name)
		require.Equal(t, nixproto.AlreadyValid, result.Status, name)
	}
	path, drv := w.derivation(t, "failing")
	result, err := b.BuildDerivation(ctx, path, drv, nixproto.BuildNormal)
	require.NoError(t, err)
	require.Equal(t, nixproto.PermanentFailure, result.Status)
	require.Contains(t, result.Message, "failed with exit code 3")
	require.Empty(t, result.Outputs)

	path, drv = w.derivation(t, "wrong")
	result, err = b.BuildDerivation(ctx, path, drv, nixproto.BuildNormal)
	require.NoError(t, err)
	require.False(t, result.Status.OK())
	require.Contains(t, result.Message, "hash mismatch")

	text := log()
	require.Contains(t, text, "says plain\n")
	require.Contains(t, text, "and more\n")
	require.Contains(t, text, "about to fail\n")
}

// fetchAndCompare reads a path through the protocol, and asks Nix itself what it is.
func fetchAndCompare(t *testing.T, b builder, at *realDaemon, path narinfo.StorePath) {
	t.Helper()
	info, err := b.PathInfo(t.Context(), path)
	require.NoError(t, err)
	nar, err := b.NARFromPath(t.Context(), path)
	require.NoError(t, err)
	sum := sha256.New()
	n, err := io.Copy(sum, nar)
	require.NoError(t, err)
	require.NoError(t, nar.Close())
	require.Equal(t, info.Info.NarSize, n)
	require.Equal(t, info.Info.NarHash.Base16(), hex.EncodeToString(sum.Sum(nil)))
	require.Equal(t, at.pathInfo(t, path).NarHash, info.Info.NarHash.SRI())
}
