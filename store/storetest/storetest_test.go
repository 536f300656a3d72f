package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// sample has a chain of three paths, one of them with a reference to itself, and a path that is a single file.
func sample(t *testing.T) *storetest.Memory {
	m := &storetest.Memory{}
	libc := m.Add("libc-2.37", storetest.Files{"lib/libc.so": strings.Repeat("libc ", 1000), "empty/": ""})
	lib := m.Add("lib-1", storetest.Files{"lib": "-> " + string(libc.StorePath), "lib-2/x": "x"}, libc.StorePath)
	m.Add("tool", storetest.Files{"bin/tool": "#!/bin/sh\n"}, lib.StorePath, libc.StorePath)
	m.Add("source.txt", storetest.Files{"": "one file"})
	return m
}

func TestMemory(t *testing.T) {
	storetest.Test(t, func(t *testing.T) storetest.Fixture {
		m := sample(t)
		return storetest.Fixture{Store: m, Entries: m.Entries()}
	})
}

func TestPlain(t *testing.T) {
	storetest.Test(t, func(t *testing.T) storetest.Fixture {
		m := sample(t)
		return storetest.Fixture{Store: storetest.Plain(m), Entries: m.Entries()}
	})
	_, ok := storetest.Plain(&storetest.Memory{}).(store.Lister)
	require.False(t, ok)
}

func TestArchiveIsInArchiveOrder(t *testing.T) {
	b := storetest.Archive(storetest.Files{"a/b": "1", "a-b": "2", "a.b": "-> t", "a/a/x": "#!x", "d/": ""})
	l, err := nar.ReadLayout(bytes.NewReader(b))
	require.NoError(t, err)
	var paths []string
	for n := range l.Len() {
		paths = append(paths, l.Entry(n).Path)
	}
	require.Equal(t, []string{"", "a", "a/a", "a/a/x", "a/b", "a-b", "a.b", "d"}, paths)
	x, _ := l.Lookup("a/a/x")
	require.True(t, l.Entry(x).Executable)
}

func TestFaults(t *testing.T) {
	m := sample(t)
	e := m.Entries()[0]
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		read func(context.Context, io.ReadCloser) io.ReadCloser
		n    int
		want error
	}{
		"fail":  {storetest.FailAt(10, boom), 10, boom},
		"cut":   {storetest.CutAt(10), 10, nil},
		"flip":  {storetest.FlipAt(10), len(e.NAR), nil},
		"block": {storetest.BlockAt(10), 10, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			s := &storetest.Faults{Store: m, Read: c.read}
			ctx, cancel := context.WithCancel(t.Context())
			r, err := s.Open(ctx, e.Info)
			require.NoError(t, err)
			cancel()
			got, err := io.ReadAll(r)
			require.ErrorIs(t, err, c.want)
			require.Len(t, got, c.n)
			require.Equal(t, e.NAR[:10], got[:10])
			if name == "flip" {
				require.Equal(t, e.NAR[10]^1, got[10])
				require.Equal(t, e.NAR[11:], got[11:])
			}
		})
	}
	s := &storetest.Faults{Store: m, InfoErr: func(narinfo.HashPart) error { return boom }}
	_, err := s.Info(t.Context(), e.Info.StorePath.HashPart())
	require.ErrorIs(t, err, boom)
}
