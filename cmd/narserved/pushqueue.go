package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// queue is a directory of paths that are to be pushed: a file for each build, with a store path a line.
//
// A file appears whole and durably, by rename. Who pushes its paths has a lock on it meanwhile, which goes with the
// process, and removes it when they are pushed. What cannot be pushed is moved into the folder "failed" below, where
// NAME.reason says why; moved back it is tried again.
type queue struct{ dir string }

const (
	queueDirName = "push-queue" // below the state folder
	entrySuffix  = ".paths"
	asideDir     = "failed"
	newPrefix    = ".new-"
	maxEntry     = 4 << 20   // bytes of an entry
	maxNewAge    = time.Hour // of a file that nobody finished
)

// add puts paths into the queue. It returns when they are on the disk.
func (q queue) add(paths []narinfo.StorePath) error {
	if err := os.MkdirAll(q.dir, 0o755); err != nil {
		return err
	}
	var text bytes.Buffer
	for _, path := range paths {
		fmt.Fprintln(&text, path)
	}
	// Names are in the order of time, as far as clocks go.
	name := fmt.Sprintf("%020d-%08x%s", time.Now().UnixNano(), rand.Uint32(), entrySuffix)
	return replaceDurably(filepath.Join(q.dir, name), text.Bytes())
}

// replaceDurably writes a file that others see whole or not at all, and that a power cut does not take back. Whoever
// works the queue off may read it: store paths are no secret.
func replaceDurably(name string, text []byte) error {
	dir, base := filepath.Split(name)
	made := filepath.Join(dir, newPrefix+base)
	err := writeDurably(made, text)
	if err == nil {
		err = os.Rename(made, name)
	}
	if err != nil {
		_ = os.Remove(made)
		return err
	}
	return syncDir(dir)
}

func writeDurably(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// entry is a file of the queue, locked.
type entry struct {
	queue queue
	name  string
	file  *os.File
	paths []narinfo.StorePath
	bad   error // why its paths cannot be read
}

// claim locks the oldest entries that nobody has: at most limit, and none of those in skip.
func (q queue) claim(limit int, skip map[string]bool) (entries []*entry, err error) {
	names, err := q.names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if skip[name] {
			continue
		}
		e, err := q.lock(name)
		if err != nil {
			release(entries)
			return nil, err
		}
		if e == nil {
			continue
		}
		if entries = append(entries, e); len(entries) == limit {
			break
		}
	}
	return entries, nil
}

// names lists the entries, the oldest first, and removes what a hook began and cannot still be writing.
func (q queue) names() (names []string, err error) {
	files, err := os.ReadDir(q.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nothing was built yet
	}
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), entrySuffix) && !strings.HasPrefix(f.Name(), ".") {
			names = append(names, f.Name())
		}
		if info, err := f.Info(); err == nil && strings.HasPrefix(f.Name(), newPrefix) && time.Since(info.ModTime()) > maxNewAge {
			_ = os.Remove(filepath.Join(q.dir, f.Name()))
		}
	}
	slices.Sort(names)
	return names, nil
}

// lock returns nil if another has the entry, or it is gone.
func (q queue) lock(name string) (_ *entry, err error) {
	file := filepath.Join(q.dir, name)
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, f.Close()
		}
		return nil, &fs.PathError{Op: "lock", Path: file, Err: err}
	}
	opened, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// Who had the lock before has removed the file, or another has come to have its name.
	if now, err := os.Lstat(file); err != nil || !os.SameFile(now, opened) {
		return nil, f.Close()
	}
	e := &entry{queue: q, name: name, file: f}
	if opened.Mode().IsRegular() {
		e.paths, e.bad = readEntry(f)
	} else {
		e.bad = errors.New("no plain file")
	}
	return e, nil
}

func readEntry(r io.Reader) (paths []narinfo.StorePath, err error) {
	text, err := io.ReadAll(io.LimitReader(r, maxEntry+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxEntry:
		return nil, fmt.Errorf("more than %d bytes", maxEntry)
	}
	for word := range strings.FieldsSeq(string(text)) {
		path, err := narinfo.ParseStorePath(word)
		if err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	if len(paths) == 0 {
		return nil, errors.New("it names no path")
	}
	return paths, nil
}

// done removes an entry.
func (e *entry) done() error {
	err := os.Remove(filepath.Join(e.queue.dir, e.name))
	return errors.Join(err, e.file.Close())
}

// setAside moves an entry where it is not tried again, and says why.
func (e *entry) setAside(why error) error {
	dir := filepath.Join(e.queue.dir, asideDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return errors.Join(err, e.file.Close())
	}
	reason := os.WriteFile(filepath.Join(dir, e.name+".reason"), []byte(why.Error()+"\n"), 0o644)
	err := os.Rename(filepath.Join(e.queue.dir, e.name), filepath.Join(dir, e.name))
	return errors.Join(reason, err, e.file.Close())
}

// release lets others have entries.
func release(entries []*entry) {
	for _, e := range entries {
		_ = e.file.Close()
	}
}
