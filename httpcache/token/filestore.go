package token

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/store"
)

const (
	fileVersion = 1
	maxFile     = 16 << 20 // some 50,000 tokens

	lockPoll = 10 * time.Millisecond
)

// FileStore keeps the records of tokens in one JSON file. Any number of processes may use the file at once, each
// through its own FileStore: a change is made under a lock, on PATH.lock beside it, as PATH.new, which then takes the
// place of the file: it appears whole or not at all. It is safe for concurrent use, and must not be copied once it is in use.
//
// The file and the lock have mode 0600. Made by root they belong to whom the folder belongs, so that root may make
// tokens for a server that runs as another user.
type FileStore struct {
	// Path is the file. A file that is not there has no tokens; the first one makes it. The folder must exist.
	Path string

	mu     sync.Mutex // guards what was read
	info   fs.FileInfo
	tokens []*Record
}

var _ Store = (*FileStore)(nil)

// Token implements [Store]. The file is read again only if it has changed.
func (s *FileStore) Token(_ context.Context, id string) (*Record, error) {
	tokens, err := s.load()
	if err != nil {
		return nil, err
	}
	if i := find(tokens, id); i >= 0 {
		return tokens[i], nil
	}
	return nil, fmt.Errorf("token: %q: %w", id, store.ErrNotFound)
}

// List returns all records in the order in which they were added. They are not to be changed.
func (s *FileStore) List(context.Context) ([]*Record, error) {
	tokens, err := s.load()
	return slices.Clone(tokens), err
}

// Add stores a new record, which is on disk on return without error. It is copied.
// If there is a record of that ID the error is [fs.ErrExist].
func (s *FileStore) Add(ctx context.Context, record *Record) error {
	added := *record
	added.Caches = slices.Clone(record.Caches)
	return s.change(ctx, func(tokens []*Record) ([]*Record, error) {
		if find(tokens, added.ID) >= 0 {
			return nil, fmt.Errorf("token: %q: %w", added.ID, fs.ErrExist)
		}
		return append(tokens, &added), nil
	})
}

// Revoke marks the token as revoked at that time, which is on disk on return without error. One that was revoked
// before stays as it is. If there is none of that ID the error is [store.ErrNotFound].
func (s *FileStore) Revoke(ctx context.Context, id string, at time.Time) error {
	if at.IsZero() {
		return errors.New("token: revoked at no time is not revoked")
	}
	return s.change(ctx, func(tokens []*Record) ([]*Record, error) {
		i := find(tokens, id)
		if i < 0 {
			return nil, fmt.Errorf("token: %q: %w", id, store.ErrNotFound)
		}
		if tokens[i].Revoked.IsZero() {
			revoked := *tokens[i]
			revoked.Revoked = at
			tokens[i] = &revoked
		}
		return tokens, nil
	})
}

func find(tokens []*Record, id string) int {
	return slices.IndexFunc(tokens, func(r *Record) bool { return r.ID == id })
}

// load returns what the file has. The result is shared and is not changed.
func (s *FileStore) load() ([]*Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := os.Stat(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	// The file is replaced by one with a time of its own, so that a reused inode number is no danger.
	if s.info != nil && os.SameFile(info, s.info) && info.Size() == s.info.Size() && info.ModTime().Equal(s.info.ModTime()) {
		return s.tokens, nil
	}
	tokens, info, err := readFile(s.Path)
	if err != nil {
		return nil, err
	}
	s.info, s.tokens = info, tokens
	return tokens, nil
}

// change replaces the file under the lock.
func (s *FileStore) change(ctx context.Context, change func([]*Record) ([]*Record, error)) error {
	lock, err := lockFile(ctx, s.Path+".lock")
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	defer lock.Close()
	tokens, _, err := readFile(s.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if tokens, err = change(tokens); err != nil {
		return err
	}
	text, err := formatFile(tokens)
	if err != nil {
		return err
	}
	if err := replaceFile(s.Path, text); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	return nil
}

// lockFile waits for the lock, which closing the file gives up.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := createOwned(path)
	if errors.Is(err, fs.ErrExist) {
		f, err = os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %q: %w", path, ctx.Err()), f.Close())
		}
	}
}

// createOwned makes a new file of mode 0600 that belongs, if root makes it, to whom its folder belongs.
// If it only cannot be given away it stays there.
func createOwned(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil || os.Geteuid() != 0 {
		return f, err
	}
	var folder unix.Stat_t
	err = unix.Stat(filepath.Dir(path), &folder)
	if err == nil && folder.Uid != 0 {
		err = f.Chown(int(folder.Uid), int(folder.Gid))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// replaceFile lets the text take the place of the file: whole, or not at all, also if the machine stops.
// The caller has the lock.
func replaceFile(path string, text []byte) error {
	draft := path + ".new" // one name is enough under the lock, and what a crash leaves does not pile up
	if err := os.Remove(draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := writeFile(draft, text)
	if err == nil {
		err = os.Rename(draft, path)
	}
	if err != nil {
		_ = os.Remove(draft) // it need not be there
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func writeFile(path string, text []byte) error {
	f, err := createOwned(path)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// tokensFile is the file's JSON.
type tokensFile struct {
	Version int         `json:"version"`
	Tokens  []tokenJSON `json:"tokens"`
}

type tokenJSON struct {
	ID      string          `json:"id"`
	SHA256  string          `json:"sha256"` // base16
	Name    string          `json:"name"`
	Scopes  httpcache.Scope `json:"scopes"`
	Caches  []string        `json:"caches"` // never null: every cache is ["*"]
	Created time.Time       `json:"created"`
	Expires time.Time       `json:"expires,omitzero"`
	Revoked time.Time       `json:"revoked,omitzero"`
}

// readFile returns the records and the file that they were read from.
func readFile(path string) ([]*Record, fs.FileInfo, error) {
	// Without waiting, lest somebody who owns the folder keep root waiting with a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("no regular file")
	}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	}
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	var tokens []*Record
	if err == nil {
		tokens, err = parseFile(text)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("token: file %q: %w", path, err)
	}
	return tokens, info, nil
}

func parseFile(text []byte) ([]*Record, error) {
	var file tokensFile
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&file); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	if file.Version != fileVersion {
		return nil, fmt.Errorf("version %d, where %d is known", file.Version, fileVersion)
	}
	var tokens []*Record
	seen := make(map[string]bool)
	for i, t := range file.Tokens {
		record, err := t.record()
		if err == nil && seen[t.ID] {
			err = errors.New("its ID is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("token %d, %q: %w", i+1, t.ID, err)
		}
		seen[t.ID] = true
		tokens = append(tokens, record)
	}
	return tokens, nil
}

func (t *tokenJSON) record() (*Record, error) {
	r := &Record{
		ID: t.ID, Name: t.Name, Scopes: t.Scopes, Caches: t.Caches, Created: t.Created, Expires: t.Expires, Revoked: t.Revoked,
	}
	if r.Caches == nil {
		return nil, errors.New(`it has no list of caches (["*"] is every cache)`)
	}
	n, err := hex.Decode(r.Hash[:], []byte(t.SHA256[:min(len(t.SHA256), 2*len(r.Hash))]))
	if err != nil || n != len(r.Hash) || len(t.SHA256) != 2*n {
		return nil, errors.New("sha256 is not 64 hexadecimal digits")
	}
	return r, checkRecord(r)
}

func checkRecord(r *Record) error {
	switch {
	case !validID(r.ID):
		return errors.New("its ID is not 10 to 32 of a-z and 2-7")
	case r.Name == "":
		return errors.New("it has no name")
	case r.Scopes == 0:
		return errors.New("it has no scope")
	}
	return nil
}

func formatFile(tokens []*Record) ([]byte, error) {
	file := tokensFile{Version: fileVersion, Tokens: []tokenJSON{}}
	for _, r := range tokens {
		if err := checkRecord(r); err != nil {
			return nil, fmt.Errorf("token: %q: %w", r.ID, err)
		}
		t := tokenJSON{
			ID: r.ID, SHA256: hex.EncodeToString(r.Hash[:]), Name: r.Name, Scopes: r.Scopes, Caches: r.Caches,
			Created: r.Created.UTC(), Expires: r.Expires.UTC(), Revoked: r.Revoked.UTC(),
		}
		if r.Caches == nil {
			t.Caches = []string{httpcache.AllCaches}
		}
		file.Tokens = append(file.Tokens, t)
	}
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	return append(text, '\n'), nil
}
