package token_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/httpcache/token"
	"github.com/voidnxlab/nixtrap/store"
)

// TestMain makes this test binary, called with a file's name, a process that adds tokens to it.
func TestMain(m *testing.M) {
	if path := os.Getenv("TOKEN_TEST_FILE"); path != "" {
		os.Exit(addTokens(path))
	}
	os.Exit(m.Run())
}

const perProcess = 20

func addTokens(path string) int {
	s := &token.FileStore{Path: path}
	for range perProcess {
		_, record, err := token.GenerateToken(nil)
		if err == nil {
			record.Name, record.Scopes = "process", httpcache.ScopePush
			err = s.Add(context.Background(), record)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}

func newFileStore(t *testing.T) *token.FileStore {
	return &token.FileStore{Path: filepath.Join(t.TempDir(), "tokens.json")}
}

func TestFileStoreRoundTrip(t *testing.T) {
	s := newFileStore(t)
	_, err := s.Token(t.Context(), "aaaaaaaaaa")
	require.ErrorIs(t, err, store.ErrNotFound, "no file has no tokens")
	list, err := s.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, list)

	_, full := generate(t, "full", httpcache.ScopeRead|httpcache.ScopePush|httpcache.ScopeAdmin)
	full.Caches, full.Expires = []string{"a", ""}, full.Created.Add(time.Hour)
	_, everywhere := generate(t, "everywhere", httpcache.ScopeRead)
	_, nowhere := generate(t, "nowhere", httpcache.ScopeRead)
	nowhere.Caches = []string{}
	records := []*token.Record{full, everywhere, nowhere}
	for _, r := range records {
		require.NoError(t, s.Add(t.Context(), r))
	}
	everywhere.Caches = []string{"*"} // means the same

	for _, s := range []*token.FileStore{s, {Path: s.Path}} {
		list, err := s.List(t.Context())
		require.NoError(t, err)
		require.Equal(t, records, list)
		got, err := s.Token(t.Context(), full.ID)
		require.NoError(t, err)
		require.Equal(t, full, got)
		_, err = s.Token(t.Context(), full.ID[:10])
		require.ErrorIs(t, err, store.ErrNotFound)
	}

	require.ErrorIs(t, s.Add(t.Context(), full), fs.ErrExist)
	info, err := os.Stat(s.Path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	entries, err := os.ReadDir(filepath.Dir(s.Path))
	require.NoError(t, err)
	require.Len(t, entries, 2, "the file and its lock, no drafts")
}

func TestFileStoreHoldsNoSecret(t *testing.T) {
	s := newFileStore(t)
	tok, record := generate(t, "ci", httpcache.ScopePush)
	require.NoError(t, s.Add(t.Context(), record))
	text, err := os.ReadFile(s.Path)
	require.NoError(t, err)
	require.Contains(t, string(text), record.ID)
	require.NotContains(t, string(text), tok.Text()[len("nixtrap_")+len(record.ID)+1:])
}

func TestRevoke(t *testing.T) {
	s, reader := newFileStore(t), (*token.FileStore)(nil)
	reader = &token.FileStore{Path: s.Path}
	tok, record := generate(t, "ci", httpcache.ScopePush)
	require.NoError(t, s.Add(t.Context(), record))
	authorizer := token.New(reader, &token.Options{MaxAge: -1})
	_, err := authorizer.Authorize(bearer(tok))
	require.NoError(t, err)

	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	require.Error(t, s.Revoke(t.Context(), record.ID, time.Time{}))
	require.NoError(t, s.Revoke(t.Context(), record.ID, at))
	require.NoError(t, s.Revoke(t.Context(), record.ID, at.Add(time.Hour)), "again")
	got, err := reader.Token(t.Context(), record.ID)
	require.NoError(t, err)
	require.Equal(t, at, got.Revoked, "the first time stays")
	_, err = authorizer.Authorize(bearer(tok))
	require.ErrorIs(t, err, httpcache.ErrBadCredential, "another process sees it")
	require.ErrorIs(t, s.Revoke(t.Context(), "aaaaaaaaaa", at), store.ErrNotFound)
}

func TestAddedRecordIsCopied(t *testing.T) {
	s := newFileStore(t)
	_, record := generate(t, "ci", httpcache.ScopePush)
	record.Caches = []string{"a"}
	require.NoError(t, s.Add(t.Context(), record))
	record.Caches[0], record.Scopes = "b", httpcache.ScopeAdmin
	got, err := s.Token(t.Context(), record.ID)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, got.Caches)
	require.Equal(t, httpcache.ScopePush, got.Scopes)
}

func TestRecordsThatAreNotComplete(t *testing.T) {
	s := newFileStore(t)
	_, nameless := generate(t, "", httpcache.ScopePush)
	require.ErrorContains(t, s.Add(t.Context(), nameless), "no name")
	_, powerless := generate(t, "a", 0)
	require.ErrorContains(t, s.Add(t.Context(), powerless), "no scope")
	_, misnamed := generate(t, "a", httpcache.ScopePush)
	misnamed.ID = "A B"
	require.ErrorContains(t, s.Add(t.Context(), misnamed), "its ID")
	require.NoFileExists(t, s.Path)
}

// No file that is not right in every part makes a token work, and none is written over.
func TestDamagedFileIsAnError(t *testing.T) {
	s := newFileStore(t)
	_, record := generate(t, "ci", httpcache.ScopePush)
	record.Expires = record.Created.Add(time.Hour)
	require.NoError(t, s.Add(t.Context(), record))
	text, err := os.ReadFile(s.Path)
	require.NoError(t, err)
	good := string(text)
	replace := func(old, new string) string {
		require.Contains(t, good, old)
		return strings.Replace(good, old, new, 1)
	}
	entry := good[strings.Index(good, "    {") : strings.Index(good, "    }")+5]
	for name, damaged := range map[string]string{
		"empty":              "",
		"cut":                good[:len(good)/2],
		"another version":    replace(`"version": 1`, `"version": 2`),
		"misspelt expiry":    replace(`"expires"`, `"expire"`),
		"unknown scope":      replace(`"scopes": "push"`, `"scopes": "all"`),
		"no scope":           replace(`"scopes": "push"`, `"scopes": ""`),
		"caches are null":    replace(`[`+"\n        \"*\"\n      ]", `null`),
		"no caches":          replace("\"caches\": [\n        \"*\"\n      ],", ``),
		"a short hash":       replace(fmt.Sprintf("%x", record.Hash[:]), fmt.Sprintf("%x", record.Hash[:31])),
		"a long hash":        replace(fmt.Sprintf("%x", record.Hash[:]), fmt.Sprintf("%x00", record.Hash[:])),
		"a hash of no hex":   replace(fmt.Sprintf("%x", record.Hash[:]), strings.Repeat("g", 64)),
		"a bad ID":           replace(record.ID, "A"),
		"the same ID twice":  replace(entry, entry+",\n"+entry),
		"something after it": good + "{}",
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(s.Path, []byte(damaged), 0o600))
			fresh := &token.FileStore{Path: s.Path}
			_, err := fresh.Token(t.Context(), record.ID)
			require.ErrorContains(t, err, "tokens.json")
			require.NotErrorIs(t, err, store.ErrNotFound)
			_, other := generate(t, "other", httpcache.ScopePush)
			require.Error(t, fresh.Add(t.Context(), other))
			after, err := os.ReadFile(s.Path)
			require.NoError(t, err)
			require.Equal(t, damaged, string(after))
		})
	}
	require.NoError(t, os.WriteFile(s.Path, []byte(good), 0o600))
	_, err = s.Token(t.Context(), record.ID)
	require.NoError(t, err)
}

func TestTooLargeAFileIsNotRead(t *testing.T) {
	s := newFileStore(t)
	require.NoError(t, os.WriteFile(s.Path, nil, 0o600))
	require.NoError(t, os.Truncate(s.Path, 16<<20+1))
	_, err := s.List(t.Context())
	require.ErrorContains(t, err, "larger than")
}

func TestWhatACrashLeavesIsNoHindrance(t *testing.T) {
	s := newFileStore(t)
	require.NoError(t, os.WriteFile(s.Path+".new", []byte("half"), 0o644))
	_, record := generate(t, "ci", httpcache.ScopePush)
	require.NoError(t, s.Add(t.Context(), record))
	require.NoFileExists(t, s.Path+".new")
	info, err := os.Stat(s.Path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
}

func TestADraftThatIsASymlinkIsNotFollowed(t *testing.T) {
	s := newFileStore(t)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	require.NoError(t, os.WriteFile(elsewhere, []byte("x"), 0o644))
	require.NoError(t, os.Symlink(elsewhere, s.Path+".new"))
	_, record := generate(t, "ci", httpcache.ScopePush)
	require.NoError(t, s.Add(t.Context(), record))
	text, err := os.ReadFile(elsewhere)
	require.NoError(t, err)
	require.Equal(t, "x", string(text))
	_, err = s.Token(t.Context(), record.ID)
	require.NoError(t, err)
}

func TestAPipeIsNoTokensFile(t *testing.T) {
	s := newFileStore(t)
	require.NoError(t, unix.Mkfifo(s.Path, 0o600))
	_, err := s.List(t.Context())
	require.ErrorContains(t, err, "no regular file")
	_, record := generate(t, "ci", httpcache.ScopePush)
	require.ErrorContains(t, s.Add(t.Context(), record), "no regular file")
}

func TestSeveralProcessesAdd(t *testing.T) {
	s := newFileStore(t)
	_, first := generate(t, "first", httpcache.ScopeRead)
	require.NoError(t, s.Add(t.Context(), first))
	const processes = 4
	done := make(chan struct{})
	var readers, writers sync.WaitGroup
	readers.Go(func() {
		for {
			// A reader that takes no lock sees a whole file each time.
			if _, err := s.Token(context.Background(), first.ID); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for range processes {
		writers.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "TOKEN_TEST_FILE="+s.Path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
	list, err := s.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1+processes*perProcess, "no change is lost")
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	s := newFileStore(t)
	lock, err := os.Create(s.Path + ".lock")
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	_, record := generate(t, "ci", httpcache.ScopePush)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Add(ctx, record) }()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	require.NoFileExists(t, s.Path)

	go func() { done <- s.Add(t.Context(), record) }()
	require.NoError(t, lock.Close())
	require.NoError(t, <-done)
}

func TestALockThatIsASymlinkIsNotFollowed(t *testing.T) {
	s := newFileStore(t)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	require.NoError(t, os.WriteFile(elsewhere, []byte("x"), 0o644))
	require.NoError(t, os.Symlink(elsewhere, s.Path+".lock"))
	_, record := generate(t, "ci", httpcache.ScopePush)
	require.Error(t, s.Add(t.Context(), record))
}

func TestWhatRootMakesBelongsToTheFoldersOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	s := newFileStore(t)
	require.NoError(t, os.Chown(filepath.Dir(s.Path), 4711, 4712))
	_, record := generate(t, "ci", httpcache.ScopePush)
	require.NoError(t, s.Add(t.Context(), record))
	for _, path := range []string{s.Path, s.Path + ".lock"} {
		var st unix.Stat_t
		require.NoError(t, unix.Stat(path, &st))
		require.Equal(t, [2]uint32{4711, 4712}, [2]uint32{st.Uid, st.Gid}, path)
	}
}

func TestWithoutAFolder(t *testing.T) {
	s := &token.FileStore{Path: filepath.Join(t.TempDir(), "absent", "tokens.json")}
	_, record := generate(t, "ci", httpcache.ScopePush)
	require.ErrorIs(t, s.Add(t.Context(), record), fs.ErrNotExist)
}
