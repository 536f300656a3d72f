package main_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/realnix"
	"github.com/voidnxlab/nixtrap/signing"
)

func TestEveryReleaseCopiesTheClosureAndChecksItsSignatures(t *testing.T) {
	top := realnix.Closure(t, 150)
	s := startServer(t, "--store", "local")
	want := realnix.Get(t, "2.8").Run(t, "nix-store", "--query", "--requisites", top)
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			dest := nix.TempDir(t)
			nix.Run(t, "nix", append(s.trusting(), "copy", "--from", s.URL, "--to", dest, top)...)
			nix.Run(t, "nix", append(s.trusting(), "store", "verify", "--store", dest, "--recursive",
				"--sigs-needed", "1", top)...)

			sigs := nix.Run(t, "nix", "path-info", "--store", dest, "--sigs", "--recursive", top)
			require.Len(t, strings.Split(sigs, "\n"), len(strings.Fields(want)), "paths that arrived")
			for line := range strings.Lines(sigs) {
				require.Contains(t, line, "test.example.org-1:", "our signature is kept with the path")
			}
		})
	}
}

func TestClientRefusesAnotherKey(t *testing.T) {
	top := realnix.Closure(t, 150)
	s := startServer(t, "--store", "local", "--compression", "none")
	other, err := signing.GenerateKey("test.example.org-1")
	require.NoError(t, err)
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			cmd := nix.Command(t, "nix", "--option", "require-sigs", "true",
				"--option", "trusted-public-keys", other.Public().String(),
				"copy", "--from", s.URL, "--to", nix.TempDir(t), top)
			out, err := cmd.CombinedOutput()
			require.Error(t, err, "a copy signed by a key that is not trusted must fail")
			require.Contains(t, string(out), "signature", "and say why")
		})
	}
}

func TestEveryNARIsWhatNixDumps(t *testing.T) {
	top := realnix.Closure(t, 150)
	s := startServer(t, "--store", "local", "--compression", "none")
	nix := realnix.Get(t, "2.8")
	for _, path := range strings.Fields(nix.Run(t, "nix-store", "--query", "--requisites", top)) {
		dump := sha256.New()
		cmd := nix.Command(t, "nix-store", "--dump", path)
		cmd.Stdout = dump
		require.NoError(t, cmd.Run())

		resp, err := httpClient.Get(s.URL + "/" + s.narinfoFields(t, path)["URL"])
		require.NoError(t, err)
		served := sha256.New()
		n, err := io.Copy(served, resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, resp.ContentLength, n, "Content-Length of %s", path)
		require.Equal(t, hex.EncodeToString(dump.Sum(nil)), hex.EncodeToString(served.Sum(nil)), "NAR of %s", path)
	}
}

func TestListingsAreWhatNixWrites(t *testing.T) {
	top := realnix.Closure(t, 150)
	s := startServer(t, "--store", "local", "--compression", "none")
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			source := nix.TempDir(t)
			nix.Run(t, "nix", append(s.trusting(), "copy", "--from", s.URL, "--to", source, top)...)
			cache := nix.TempDir(t)
			nix.Run(t, "nix", "copy", "--from", source, "--no-check-sigs",
				"--to", "file://"+cache+"?write-nar-listing=true&compression=none", top)
			listings, err := filepath.Glob(nix.Host(cache) + "/*.ls")
			require.NoError(t, err)
			require.Len(t, listings, 151)
			for _, file := range listings {
				want, err := os.ReadFile(file)
				require.NoError(t, err)
				got := get(t, s.URL+"/"+filepath.Base(file))
				require.Equal(t, http.StatusOK, got.status)
				require.Equal(t, decodeJSON(t, want), decodeJSON(t, got.body), "%s", filepath.Base(file))
			}
		})
	}
}

// decodeJSON keeps numbers as they are written.
func decodeJSON(t *testing.T, text []byte) any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	require.NoError(t, dec.Decode(&v), "%s", text)
	return v
}

func TestListingOfNamesThatAreNotUTF8IsAbsent(t *testing.T) {
	p := newPrivateStore(t)
	path := p.Build(t, "latin1", `mkdir $out; : > "$out/$(printf 'caf\351')"`)
	s := startServer(t, "--store", p.URI(), "--compression", "none")
	require.Equal(t, http.StatusNotFound, get(t, s.URL+"/"+hashPart(path)+".ls").status)
	nar := get(t, s.URL+"/"+s.narinfoFields(t, path)["URL"])
	require.NoError(t, nar.err)
	require.Equal(t, []byte(p.Run(t, "nix-store", "--dump", path)), bytes.TrimSpace(nar.body), "its NAR is served")
}

func TestNixReadsLogsAndFilesOverHTTP(t *testing.T) {
	p := newPrivateStore(t)
	const script = `echo a line of the log; mkdir -p $out/bin; echo content > $out/bin/file; ln -s bin/file $out/link`
	path := p.Build(t, "tree", script)
	plain := p.Run(t, "nix-build", "--no-out-link", "--option", "compress-build-log", "false",
		"--expr", derivation("plainlog", "echo another line; echo > $out", ""))
	s := startServer(t, "--store", p.URI())
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			run := func(args ...string) string {
				cmd := nix.Command(t, "nix", args...)
				cmd.Env = append(cmd.Env, "NIX_STORE_DIR="+p.Dir)
				out, err := cmd.Output()
				require.NoError(t, err, "nix %v", args)
				return strings.TrimSpace(string(out))
			}
			require.Equal(t, "a line of the log", run("log", "--store", s.URL, path), "a log stored as bz2")
			require.Equal(t, "another line", run("log", "--store", s.URL, plain), "a log stored as it is")
			require.Equal(t, "./bin\n./bin/file\n./link", run("store", "ls", "-R", "--store", s.URL, path))
			require.Equal(t, "content", run("store", "cat", "--store", s.URL, path+"/bin/file"))
		})
	}
}

func TestFilesAndDebugInfoOutOfAPath(t *testing.T) {
	p := newPrivateStore(t)
	path := p.Build(t, "debug", `mkdir -p $out/lib/debug/.build-id/ab; echo symbols > $out/lib/debug/.build-id/ab/cdef12.debug
		ln -s lib/debug $out/inside; ln -s /etc/passwd $out/outside`)
	s := startServer(t, "--store", p.URI(), "--compression", "none")
	files := s.URL + "/serve/" + hashPart(path)
	require.Equal(t, "symbols\n", string(get(t, files+"/inside/.build-id/ab/cdef12.debug").body))
	require.Equal(t, http.StatusNotFound, get(t, files+"/outside").status)
	require.Contains(t, string(get(t, files+"/lib/debug/").body), ".build-id")

	var found struct{ Archive, Member string }
	answer := get(t, s.URL+"/debuginfo/abcdef12")
	require.Equal(t, http.StatusOK, answer.status, "%s", answer.body)
	require.NoError(t, json.Unmarshal(answer.body, &found))
	require.Equal(t, "lib/debug/.build-id/ab/cdef12.debug", found.Member)
	require.Equal(t, "../"+s.narinfoFields(t, path)["URL"], found.Archive)

	later := p.Build(t, "later", "mkdir -p $out/lib/debug/.build-id/00; echo > $out/lib/debug/.build-id/00/11.debug")
	require.Equal(t, http.StatusOK, get(t, s.URL+"/debuginfo/0011").status, "a path that came later")
	p.Run(t, "nix-store", "--delete", later)
	require.Equal(t, http.StatusNotFound, get(t, s.URL+"/debuginfo/0011").status, "a path that is gone")
}

func TestStoreUnderAChrootRootIsServed(t *testing.T) {
	top := realnix.Closure(t, 150)
	first := startServer(t, "--store", "local", "--compression", "none")
	nix := realnix.Get(t, "2.26")
	root := nix.TempDir(t)
	nix.Run(t, "nix", append(first.trusting(), "copy", "--from", first.URL, "--to", root, top)...)

	s := startServer(t, "--store", nix.Host(root))
	client := realnix.Get(t, "2.34")
	client.Run(t, "nix", append(s.trusting(), "copy", "--from", s.URL, "--to", client.TempDir(t), top)...)
}

// TestRealisationsReachEveryRelease lets a client that may not build anything ask for a content-addressed derivation:
// only the realisation tells it which path that is.
func TestRealisationsReachEveryRelease(t *testing.T) {
	expression := derivation("floating", "echo found by content > $out",
		`__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";`)
	for _, nix := range realnix.All(t) {
		t.Run(nix.Release, func(t *testing.T) {
			p := newPrivateStoreOf(t, nix.Release)
			path := p.Run(t, "nix-build", "--no-out-link", "--expr", expression)
			client := *p
			p.move(t)
			s := startServer(t, "--store", p.URI())
			got := client.Run(t, "nix-build", append(s.trusting(), "--no-out-link", "--max-jobs", "0",
				"--option", "substituters", s.URL, "--expr", expression)...)
			require.Equal(t, path, got)
			content, err := os.ReadFile(nix.Host(path))
			require.NoError(t, err)
			require.Equal(t, "found by content\n", string(content))
		})
	}
}
