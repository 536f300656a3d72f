package nixproto_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// dialStdio opens a connection to a daemon of a store of its own.
func dialStdio(t *testing.T, d *realDaemon, onEvent func(nixproto.Event), args ...string) *nixproto.Client {
	t.Helper()
	c, err := nixproto.NewClient(t.Context(), d.stdio(t, "nix-daemon", append([]string{"--stdio"}, args...)...),
		&nixproto.Options{OnEvent: onEvent})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// TestRealOperations are those that BuildDerivation does without.
func TestRealOperations(t *testing.T) {
	for _, release := range realnix.Releases() {
		t.Run(release, func(t *testing.T) {
			nix := realnix.Get(t, release)
			w := newWorkshop(t, nix)
			t.Run("build paths", func(t *testing.T) { buildPaths(t, w, emptyStore(t, nix)) })
			t.Run("add", func(t *testing.T) { addAll(t, emptyStore(t, nix)) })
			t.Run("refused upload", func(t *testing.T) { refuseUpload(t, w, emptyStore(t, nix)) })
			t.Run("cancelled build", func(t *testing.T) { cancelBuild(t, w, emptyStore(t, nix)) })
		})
	}
}

// closure returns a derivation with all that it refers to, references first.
func (w *workshop) closure(t *testing.T, name string) []narinfo.StorePath {
	t.Helper()
	return parsePaths(t, w.run(t, "nix-store", "--query", "--requisites", string(w.drvs[name])))
}

func buildPaths(t *testing.T, w *workshop, at *realDaemon) {
	ctx := t.Context()
	c := dialStdio(t, at, nil)
	require.NoError(t, c.AddMultipleToStore(ctx, nixproto.Uploads(w.upload(t, w.closure(t, "dependent")...)...), nil))
	all := nixproto.DerivedPath{Path: w.drvs["dependent"], Outputs: []string{"*"}}
	missing, err := c.Missing(ctx, []nixproto.DerivedPath{all})
	require.NoError(t, err)
	require.ElementsMatch(t, []narinfo.StorePath{w.drvs["dependent"], w.drvs["plain"], w.drvs["several"]}, missing.WillBuild)

	results, err := c.BuildPathsWithResults(ctx, []nixproto.DerivedPath{all}, nixproto.BuildNormal)
	require.NoError(t, err)
	require.Len(t, results, 1)
	require.Equal(t, all, results[0].Path)
	require.True(t, results[0].Status.OK(), results[0].Message)
	outputs, err := c.DerivationOutputs(ctx, w.drvs["dependent"])
	require.NoError(t, err)
	require.NoError(t, c.EnsurePath(ctx, outputs["out"]))
	require.NoError(t, c.BuildPaths(ctx, []nixproto.DerivedPath{{Path: outputs["out"]}, all}, nixproto.BuildNormal))
	require.NoError(t, c.BuildPaths(ctx, []nixproto.DerivedPath{all}, nixproto.BuildCheck))

	require.NoError(t, c.AddMultipleToStore(ctx, nixproto.Uploads(w.upload(t, w.drvs["failing"])...), nil))
	broken := nixproto.DerivedPath{Path: w.drvs["failing"], Outputs: []string{"out"}}
	results, err = c.BuildPathsWithResults(ctx, []nixproto.DerivedPath{broken}, nixproto.BuildNormal)
	require.NoError(t, err)
	require.Equal(t, nixproto.PermanentFailure, results[0].Status)
	err = c.BuildPaths(ctx, []nixproto.DerivedPath{broken}, nixproto.BuildNormal)
	_, remote := errors.AsType[*nixproto.RemoteError](err)
	require.True(t, remote, "%v", err)

	legacy, err := nixproto.NewLegacyClient(ctx, at.stdio(t, "nix-store", "--serve", "--write"), nil)
	require.NoError(t, err)
	require.NoError(t, legacy.BuildPaths(ctx, []nixproto.DerivedPath{all}, nixproto.BuildNormal))
	closure, err := legacy.Closure(ctx, []narinfo.StorePath{w.drvs["dependent"]})
	require.NoError(t, err)
	require.ElementsMatch(t, w.closure(t, "dependent"), closure)
	require.ErrorContains(t, legacy.BuildPaths(ctx, []nixproto.DerivedPath{broken}, nixproto.BuildNormal), "failed")
}

func addAll(t *testing.T, at *realDaemon) {
	ctx := t.Context()
	c := dialStdio(t, at, nil)
	info, err := c.AddToStore(ctx, &nixproto.Content{Name: "flat", Method: "fixed:sha256"}, strings.NewReader("flat\n"))
	require.NoError(t, err)
	require.Equal(t, at.pathInfo(t, info.Info.StorePath).NarHash, info.Info.NarHash.SRI())
	text, err := c.AddToStore(ctx, &nixproto.Content{
		Name: "text", Method: "text:sha256", References: []narinfo.StorePath{info.Info.StorePath},
	}, strings.NewReader("refers to "+string(info.Info.StorePath)))
	require.NoError(t, err)
	require.Equal(t, []narinfo.StorePath{info.Info.StorePath}, text.Info.References)

	key, err := signing.GenerateKey("nixproto-1")
	require.NoError(t, err)
	signature := string(key.Sign(info.Info.Fingerprint()))
	require.NoError(t, c.AddSignatures(ctx, info.Info.StorePath, []string{signature}))
	require.Equal(t, []string{signature}, at.pathInfo(t, info.Info.StorePath).Signatures)

	// What is there under one name is added under another, as no content address.
	nar := readAll(t, c, info.Info.StorePath)
	other := narinfo.StorePath("/nix/store/" + absentHash + "-other")
	added := &nixproto.PathInfo{Info: &narinfo.Info{StorePath: other, NarHash: info.Info.NarHash, NarSize: info.Info.NarSize}}
	require.NoError(t, c.AddToStoreNAR(ctx, added, strings.NewReader(nar), &nixproto.AddOptions{DontCheckSigs: true}))
	require.Equal(t, info.Info.NarHash.SRI(), at.pathInfo(t, other).NarHash)

	id := "sha256:" + strings.Repeat("0", 64) + "!out"
	realisation, err := json.Marshal(map[string]any{
		"id": id, "outPath": other.Base(), "signatures": []string{}, "dependentRealisations": map[string]string{},
	})
	require.NoError(t, err)
	require.NoError(t, c.RegisterRealisation(ctx, realisation))
	known, err := c.Realisation(ctx, id)
	require.NoError(t, err)
	require.JSONEq(t, string(realisation), string(known))
}

func readAll(t *testing.T, c builder, path narinfo.StorePath) string {
	t.Helper()
	r, err := c.NARFromPath(t.Context(), path)
	require.NoError(t, err)
	nar, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return string(nar)
}

// refuseUpload sends what a daemon does not take: its words arrive, and no goroutine waits for anything.
func refuseUpload(t *testing.T, w *workshop, at *realDaemon) {
	ctx := t.Context()
	src := w.upload(t, parsePaths(t, w.run(t, "nix-store", "--add", "/bin/bash"))[0]) // more than any pipe holds
	src[0].Info.Info.CA = ""
	path := src[0].Info.Info.StorePath
	wrong := *src[0].Info.Info
	wrong.NarHash, _ = narinfo.NewHash(narinfo.SHA256, make([]byte, 32))
	lie := nixproto.Upload{Info: &nixproto.PathInfo{Info: &wrong}, Open: src[0].Open}
	err := dialStdio(t, at, nil).AddMultipleToStore(ctx, nixproto.Uploads(lie, src[0], src[0], src[0]),
		&nixproto.AddOptions{DontCheckSigs: true})
	remote, ok := errors.AsType[*nixproto.RemoteError](err)
	require.True(t, ok, "%v", err)
	require.Contains(t, remote.Message, "hash mismatch")

	c := dialStdio(t, at, nil)
	short := *src[0].Info.Info
	short.NarSize += 8
	lie.Info = &nixproto.PathInfo{Info: &short}
	require.ErrorIs(t, c.AddMultipleToStore(ctx, nixproto.Uploads(lie), nil), io.ErrUnexpectedEOF)
	_, err = c.IsValidPath(ctx, path)
	require.ErrorIs(t, err, nixproto.ErrClosed)

	valid, err := dialStdio(t, at, nil).IsValidPath(ctx, path)
	require.NoError(t, err)
	require.False(t, valid)
}

// cancelBuild ends a build by the end of its context, and the builder notices.
func cancelBuild(t *testing.T, w *workshop, at *realDaemon) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	mark := at.nix.Host(at.dir + "/running")
	path, drv := w.derivation(t, "plain")
	drv.InputSrcs = nil
	drv.Args = []string{"-c", "echo $$ > /nix/running; echo begun; while test -e /nix/running; do sleep 0.05; done; echo > $out"}
	started := make(chan struct{})
	c := dialStdio(t, at, func(ev nixproto.Event) {
		text, _ := ev.LogLine()
		if text == "begun" || ev.Kind == nixproto.EventLog && strings.Contains(ev.Text, "begun") {
			close(started)
		}
	})
	go func() {
		<-started
		// Who leaves a 2.34 in the moment in which a build begins is now and then not noticed.
		time.AfterFunc(500*time.Millisecond, cancel)
	}()
	_, err := c.BuildDerivation(ctx, path, drv, nixproto.BuildNormal)
	require.ErrorIs(t, err, context.Canceled)
	pid, err := os.ReadFile(mark)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := os.Stat("/proc/" + strings.TrimSpace(string(pid)))
		return err != nil
	}, 10*time.Second, 10*time.Millisecond, "the build goes on")
}
