package main_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
)

// lay writes paths into a directory as Nix would, without a server.
func lay(dir string, paths ...made) error {
	files := map[string][]byte{"nix-cache-info": []byte("StoreDir: /nix/store\n")}
	for _, p := range paths {
		text, err := p.info.MarshalText()
		if err != nil {
			return err
		}
		files[p.info.URL], files[strings.TrimPrefix(p.key(), "/")] = p.archive, text
	}
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// family is lib, app and tool which refer to it, and suite which refers to both; and lone.
func family(t require.TestingT) (lib, app, tool, suite, lone made) {
	path := func(name string, references ...made) made {
		m := makePath(t, name, []byte(name+" "+strings.Repeat("x", 4096)))
		for _, r := range references {
			m.info.References = append(m.info.References, r.info.StorePath)
		}
		slices.Sort(m.info.References)
		return m
	}
	lib = path("lib")
	app, tool = path("app", lib), path("tool", lib)
	return lib, app, tool, path("suite", app, tool), path("lone")
}

// scriptBucket is `bucket DIR`: makes a directory with the family, and sets $lib, $app, $tool, $suite and $lone to
// their hash parts, and $lib_archive and so on to the archives' names.
func scriptBucket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: bucket DIR")
	}
	lib, app, tool, suite, lone := family(scriptT{ts})
	for name, m := range map[string]made{"lib": lib, "app": app, "tool": tool, "suite": suite, "lone": lone} {
		ts.Setenv(name, string(m.info.StorePath.HashPart()))
		ts.Setenv(name+"_archive", m.info.URL)
	}
	ts.Check(lay(ts.MkAbs(args[0]), lib, app, tool, suite, lone))
}

// scriptT lets require speak in a script.
type scriptT struct{ ts *testscript.TestScript }

func (s scriptT) Errorf(format string, args ...any) { s.ts.Logf(format, args...) }
func (s scriptT) FailNow()                          { s.ts.Fatalf("failed") }

// push uploads paths, in order.
func (u *uploadServer) push(t *testing.T, token string, paths ...made) {
	t.Helper()
	for _, p := range paths {
		a := u.send(t, http.MethodPut, "/"+p.info.URL, token, bytes.NewReader(p.archive))
		require.Equal(t, 201, a.status, "%s", a.body)
		a = u.send(t, http.MethodPut, p.key(), token, bytes.NewReader(p.narinfo(t)))
		require.Equal(t, 201, a.status, "%s", a.body)
	}
}
