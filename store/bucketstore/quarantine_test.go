package bucketstore_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// logBuffer may be written to and read at once.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

// openQuickly opens a store that looks at damaged paths again after some milliseconds.
func openQuickly(t *testing.T, dir string) *bucketstore.Store {
	s, _ := openLogged(t, dir)
	return s
}

func openLogged(t *testing.T, dir string) (*bucketstore.Store, *logBuffer) {
	t.Helper()
	log := &logBuffer{}
	o := &bucketstore.Options{Logger: slog.New(slog.NewTextHandler(log, nil))}
	bucketstore.SetLook(o, 5*time.Millisecond)
	s, err := bucketstore.Open(dir, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s, log
}

// stored reads a narinfo without asking a store.
func stored(t *testing.T, dir string, hash narinfo.HashPart) *narinfo.Info {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, string(hash)+".narinfo"))
	require.NoError(t, err)
	info, err := narinfo.Parse(text)
	require.NoError(t, err)
	return info
}

// requireQuarantined checks that nothing about the path is served, and that this is no news.
func requireQuarantined(t *testing.T, s *bucketstore.Store, info *narinfo.Info) {
	t.Helper()
	_, err := s.Info(t.Context(), info.StorePath.HashPart())
	require.ErrorIs(t, err, store.ErrNotFound)
	require.NotErrorIs(t, err, store.ErrCorrupt)
	_, err = s.Open(t.Context(), info)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.OpenRange(t.Context(), info, 0, 1)
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.OpenArchive(t.Context(), info)
	require.ErrorIs(t, err, store.ErrNotFound)
	var paths []narinfo.StorePath
	for _, q := range s.Quarantined() {
		require.NotEmpty(t, q.Reason)
		require.WithinDuration(t, time.Now(), q.Since, time.Minute)
		paths = append(paths, q.Path)
	}
	require.Contains(t, paths, info.StorePath)
}

// requireServedAgain waits until a path that is right is served.
func requireServedAgain(t *testing.T, s *bucketstore.Store, info *narinfo.Info) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := s.Info(t.Context(), info.StorePath.HashPart())
		return err == nil
	}, 10*time.Second, time.Millisecond, "a path that is right again is served")
	require.NoError(t, store.Verify(t.Context(), s, info))
}

// waitUntilSettled waits until any further change of a file shows in its identity.
func waitUntilSettled(t *testing.T, file string) {
	t.Helper()
	require.Eventually(t, func() bool {
		st, err := os.Stat(file)
		require.NoError(t, err)
		return time.Since(st.ModTime()) > 2100*time.Millisecond
	}, 10*time.Second, 10*time.Millisecond)
}

// A damaged archive is read once for each state that it is in, however often the path is asked for; the alarm is given
// once; and it is served when it is right.
func TestDamagedArchiveIsReadOncePerChange(t *testing.T) {
	for _, compression := range []string{"none", "zstd"} {
		t.Run(compression, func(t *testing.T) {
			e := sample().Entries()[0]
			dir := bucket(t, compression, []storetest.Entry{e}, nil)
			info := stored(t, dir, e.Info.StorePath.HashPart())
			file := filepath.Join(dir, info.URL)
			right, err := os.ReadFile(file)
			require.NoError(t, err)
			wrong := bytes.Clone(right)
			wrong[len(wrong)/2] ^= 1
			require.NoError(t, os.WriteFile(file, wrong, 0o644))
			waitUntilSettled(t, file)

			s, log := openLogged(t, dir)
			_, err = readAll(t, s, info)
			require.ErrorIs(t, err, store.ErrCorrupt)
			ask := func() {
				t.Helper()
				for range 50 {
					_, err := s.Info(t.Context(), info.StorePath.HashPart())
					require.ErrorIs(t, err, store.ErrNotFound)
				}
			}
			ask()
			require.Zero(t, s.Looks(), "nobody has touched it")

			require.NoError(t, os.WriteFile(file, wrong, 0o644))
			waitUntilSettled(t, file)
			require.Eventually(t, func() bool { ask(); return s.Looks() == 1 }, 10*time.Second, time.Millisecond)
			for range 20 {
				ask()
			}
			require.Equal(t, 1, s.Looks(), "it has changed once")
			require.Equal(t, 1, log.count("path quarantined"))

			require.NoError(t, os.WriteFile(file, right, 0o644))
			requireServedAgain(t, s, info)
			require.Equal(t, 1, log.count("path served again"))
			require.Empty(t, s.Quarantined())
		})
	}
}

// What a look-up sees without reading: the archive is not there, or is no file, or has another size.
func TestInfoSeesThatTheArchiveIsNotThere(t *testing.T) {
	for name, c := range map[string]struct {
		edit   func(*narinfo.Info, *[]byte)
		damage func(file string) error
		reason string
	}{
		"deleted":   {nil, os.Remove, "its archive is absent"},
		"truncated": {nil, func(file string) error { return os.Truncate(file, 10) }, "its archive has the wrong size"},
		"a directory": {nil, func(file string) error {
			return errors.Join(os.Remove(file), os.Mkdir(file, 0o755))
		}, "its archive is absent"},
		"truncated, without FileSize": {
			func(i *narinfo.Info, _ *[]byte) { i.FileHash, i.FileSize = narinfo.Hash{}, 0 },
			func(file string) error { return os.Truncate(file, 10) }, "its archive has the wrong size",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := sample().Entries()[0]
			dir := bucket(t, "none", []storetest.Entry{e}, c.edit)
			hash := e.Info.StorePath.HashPart()
			info := stored(t, dir, hash)
			file := filepath.Join(dir, info.URL)
			s, log := openLogged(t, dir)
			_, err := s.Info(t.Context(), hash)
			require.NoError(t, err)
			require.NoError(t, c.damage(file))

			_, err = s.Info(t.Context(), hash)
			require.ErrorIs(t, err, store.ErrNotFound)
			require.ErrorIs(t, err, store.ErrCorrupt, "the first to see it gives the alarm")
			for range 10 {
				requireQuarantined(t, s, info)
			}
			require.Equal(t, 1, log.count("level=ERROR msg=\"path quarantined\""))
			require.Equal(t, c.reason, s.Quarantined()[0].Reason)
			for path, err := range s.Paths(t.Context()) {
				require.NoError(t, err)
				require.Equal(t, info.StorePath, path, "it is listed all the same")
			}

			require.NoError(t, os.RemoveAll(file))
			require.NoError(t, os.WriteFile(file, e.NAR, 0o644))
			requireServedAgain(t, s, info)
		})
	}
}

// An archive that comes back wrong stays in quarantine, with the reason that it has now.
func TestArchiveComesBackWrong(t *testing.T) {
	e := sample().Entries()[0]
	dir := bucket(t, "zstd", []storetest.Entry{e}, nil)
	info := stored(t, dir, e.Info.StorePath.HashPart())
	file := filepath.Join(dir, info.URL)
	right, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.Remove(file))
	s, log := openLogged(t, dir)
	_, err = s.Info(t.Context(), info.StorePath.HashPart())
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.NoError(t, os.WriteFile(file, make([]byte, len(right)), 0o644))
	require.Eventually(t, func() bool {
		requireQuarantined(t, s, info)
		return s.Quarantined()[0].Reason == "its archive has the wrong content"
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, 2, log.count("path quarantined"), "once for each reason")
	require.NoError(t, os.WriteFile(file, right, 0o644))
	requireServedAgain(t, s, info)
}

// A file that has its FileHash but decodes to another NAR is not right, though every proof by FileHash succeeds.
func TestRightFileOfAWrongNARStaysInQuarantine(t *testing.T) {
	e := sample().Entries()[0]
	dir := bucket(t, "zstd", []storetest.Entry{e}, func(i *narinfo.Info, _ *[]byte) { i.NarSize-- })
	info := stored(t, dir, e.Info.StorePath.HashPart())
	s, log := openLogged(t, dir)
	_, err := readAll(t, s, info)
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.Eventually(t, func() bool {
		requireQuarantined(t, s, info)
		return s.Looks() > 2
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, 1, log.count("path quarantined"))

	info.NarSize++ // the narinfo is what was wrong
	text, err := info.MarshalText()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, string(info.StorePath.HashPart())+".narinfo"), text, 0o644))
	requireServedAgain(t, s, info)
}

// A path whose narinfo is gone is not damaged but absent.
func TestDeletedPathLeavesQuarantine(t *testing.T) {
	e := sample().Entries()[0]
	dir := bucket(t, "none", []storetest.Entry{e}, nil)
	hash := e.Info.StorePath.HashPart()
	info := stored(t, dir, hash)
	s := openQuickly(t, dir)
	require.NoError(t, os.Remove(filepath.Join(dir, info.URL)))
	_, err := s.Info(t.Context(), hash)
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.Len(t, s.Quarantined(), 1)
	require.NoError(t, os.Remove(filepath.Join(dir, string(hash)+".narinfo")))
	_, err = s.Info(t.Context(), hash)
	require.ErrorIs(t, err, store.ErrNotFound)
	require.Empty(t, s.Quarantined())
}

// A reader that fails because the path has another archive by now accuses nobody.
func TestReaderOfAnOldArchiveAccusesNobody(t *testing.T) {
	e := sample().Entries()[0]
	dir := bucket(t, "none", []storetest.Entry{e}, nil)
	info := stored(t, dir, e.Info.StorePath.HashPart())
	s, log := openLogged(t, dir)
	r, err := s.Open(t.Context(), info)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(filepath.Join(dir, info.URL), 10))
	put(t, dir, "zstd", e, nil)
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.NoError(t, r.Close())
	_, err = s.Info(t.Context(), e.Info.StorePath.HashPart())
	require.NoError(t, err)
	require.Zero(t, log.count("path quarantined"))
}
