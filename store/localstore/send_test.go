package localstore_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

// kernel is a writer that does what the kernel does.
type kernel struct {
	bytes.Buffer
	sent   int64
	last   bool   // the last thing that came was sent
	before func() // SendFile reads; nil: nothing
	err    error  // of SendFile, which then sends nothing
}

var _ localstore.FileSender = (*kernel)(nil)

func (k *kernel) Write(p []byte) (int, error) {
	k.last = false
	return k.Buffer.Write(p)
}

func (k *kernel) SendFile(fd int, offset, n int64) (int64, error) {
	if k.before != nil {
		k.before()
	}
	if k.err != nil {
		return 0, k.err
	}
	b := make([]byte, n)
	got, err := unix.Pread(fd, b, offset)
	if err == nil && int64(got) < n {
		err = io.ErrUnexpectedEOF
	}
	k.Buffer.Write(b[:got])
	k.sent += int64(got)
	k.last = true
	return int64(got), err
}

// sendRange writes a part of a path's archive to k.
func sendRange(t *testing.T, s *localstore.Store, info *narinfo.Info, offset, length int64, k *kernel) error {
	t.Helper()
	r, err := s.OpenRange(t.Context(), info, offset, length)
	require.NoError(t, err)
	defer r.Close()
	n, err := r.(io.WriterTo).WriteTo(k)
	require.Equal(t, int64(k.Len()), n)
	return err
}

func TestWhatTheKernelSendsIsTheArchive(t *testing.T) {
	for name, content := range mixed {
		for memory, budget := range map[string]int64{"files": 0, "memory": 64 << 20} {
			t.Run(name+"/"+memory, func(t *testing.T) {
				m := newMadeStore(t, "wal")
				info := m.add("a", content)
				want := m.dump(info.StorePath)
				s, told := remembering(m, budget, m.options())
				if budget > 0 {
					readIntoMemory(t, s, told, info)
				}
				_, err := read(t, s, info) // proves it
				require.NoError(t, err)
				for i := range 100 {
					offset, length := int64(0), info.NarSize
					if i > 0 {
						offset = rand.Int64N(info.NarSize)
						length = rand.Int64N(info.NarSize - offset + 1)
					}
					k := &kernel{}
					if i%5 == 1 {
						k.err = fmt.Errorf("no such thing: %w", store.ErrUnsupported)
					}
					require.NoError(t, sendRange(t, s, info, offset, length, k))
					require.True(t, bytes.Equal(want[offset:][:length], k.Bytes()), "%d bytes from %d", length, offset)
					require.False(t, k.last, "the last byte waits for the last look")
					if i == 0 && strings.HasPrefix(name, "large") {
						require.Positive(t, k.sent)
					}
				}
			})
		}
	}
}

func TestAFileThatChangesWhileTheKernelSendsIt(t *testing.T) {
	for name, change := range map[string]func(g *guarded){
		"changed":   func(g *guarded) { g.write("large", 10, "X") },
		"truncated": func(g *guarded) { require.NoError(g.t, os.Truncate(g.file(g.info.StorePath, "large"), 1000)) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuarded(t, tree{"a": "small", "large": strings.Repeat("large", 200_000), "z": "small"})
			_, err := read(t, g.Store, g.info)
			require.NoError(t, err)
			k := &kernel{before: func() { change(g) }}
			require.ErrorIs(t, sendRange(t, g.Store, g.info, 0, g.info.NarSize, k), store.ErrCorrupt)
			require.Less(t, int64(k.Len()), g.info.NarSize)
			g.requireQuarantined()
		})
	}
}
