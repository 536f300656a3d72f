package bucketstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/voidnxlab/nixtrap/nar"
)

// tempPrefix begins the names of files that are being written. Such names are never opened or listed.
const tempPrefix = ".new-"

// staleTemp is how long a file that is being written may lie untouched until it counts as left behind.
const staleTemp = 24 * time.Hour

// Directory is a directory as [Files]. It is safe for concurrent use, by several processes too.
//
// A file is published by renaming it, after it and before its directory are written to disk: a directory that is made
// on the way is itself written to disk first. No symlink leads out of the directory.
type Directory struct {
	root *os.Root
}

var _ Files = (*Directory)(nil)

// OpenDirectory opens an existing directory. The caller closes it when nothing is read from it any more; objects that are open stay usable.
func OpenDirectory(dir string) (*Directory, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("bucketstore: %w", err)
	}
	return &Directory{root: root}, nil
}

// Close closes the directory.
func (d *Directory) Close() error { return d.root.Close() }

// Open implements [Files]. What is no regular file is not there.
func (d *Directory) Open(ctx context.Context, key string) (Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !isKey(key) {
		return nil, notFound(key)
	}
	// Without O_NONBLOCK a named pipe would block until somebody writes to it.
	f, err := d.root.OpenFile(key, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, openError(key, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = notFound(key)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file{f}, nil
}

// isKey reports whether a name can be a file's.
func isKey(key string) bool {
	return fs.ValidPath(key) && key != "." && !strings.HasPrefix(path.Base(key), tempPrefix)
}

// openError tells names under which there can't be a file from trouble.
func openError(name string, err error) error {
	for _, absent := range []error{
		fs.ErrNotExist, syscall.ENOTDIR, syscall.ENAMETOOLONG, syscall.EINVAL, syscall.ELOOP, syscall.ENXIO,
	} {
		if errors.Is(err, absent) {
			return notFound(name)
		}
	}
	return fmt.Errorf("bucketstore: %w", err)
}

// file is an open file of a directory.
type file struct{ *os.File }

// State implements [Object]. A file changes its version with each write, and with its name.
func (f file) State() (State, error) {
	id, err := nar.FileIDOf(f.File)
	if err != nil {
		return State{}, fmt.Errorf("bucketstore: %w", err)
	}
	return State{
		Size: id.Size, Modified: time.Unix(0, id.Mtime), Version: id,
		Unsettled: time.Since(time.Unix(0, id.Ctime)) <= settling,
	}, nil
}

// settling is how long what has changed may change again within the same tick of the file system's clock.
const settling = 2 * time.Second

// Put implements [Files].
func (d *Directory) Put(ctx context.Context, key string, content io.Reader, size int64) (State, error) {
	if !isKey(key) {
		return State{}, fmt.Errorf("bucketstore: %q is no key", key)
	}
	dir := path.Dir(key)
	if err := d.mkdir(dir); err != nil {
		return State{}, fmt.Errorf("bucketstore: %w", err)
	}
	temp := path.Join(dir, tempPrefix+strconv.FormatUint(rand.Uint64(), 36))
	f, err := d.root.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return State{}, fmt.Errorf("bucketstore: %w", err)
	}
	state, err := d.publish(ctx, f, temp, key, content, size)
	if err != nil {
		return State{}, errors.Join(err, f.Close(), ignoreAbsent(d.root.Remove(temp)))
	}
	if err := f.Close(); err != nil {
		return State{}, fmt.Errorf("bucketstore: %w", err)
	}
	return state, nil
}

// publish writes a new file and gives it its name.
func (d *Directory) publish(ctx context.Context, f *os.File, temp, key string, content io.Reader, size int64) (State, error) {
	buf := transferBuffers.Get().(*[]byte)
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, &contextReader{ctx, content}, *buf)
	transferBuffers.Put(buf)
	switch {
	case err != nil:
		return State{}, fmt.Errorf("bucketstore: writing %q: %w", key, err)
	case size >= 0 && n != size:
		return State{}, fmt.Errorf("bucketstore: writing %q: %d bytes instead of %d: %w", key, n, size, io.ErrUnexpectedEOF)
	}
	if err := f.Sync(); err != nil {
		return State{}, fmt.Errorf("bucketstore: %w", err)
	}
	if err := d.root.Rename(temp, key); err != nil {
		return State{}, fmt.Errorf("bucketstore: %w", err)
	}
	if err := d.sync(path.Dir(key)); err != nil {
		return State{}, fmt.Errorf("bucketstore: %w", err)
	}
	return file{f}.State()
}

// contextReader ends with a context. It hides what else the reader can do, which would not look at the context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// mkdir makes a directory and those above it, durably.
func (d *Directory) mkdir(dir string) error {
	if st, err := d.root.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	if parent := path.Dir(dir); parent != dir {
		if err := d.mkdir(parent); err != nil {
			return err
		}
	}
	if err := d.root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.sync(path.Dir(dir))
}

// sync writes a directory's names to disk.
func (d *Directory) sync(dir string) error {
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Remove implements [Files].
func (d *Directory) Remove(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !isKey(key) {
		return nil
	}
	if err := d.root.Remove(key); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("bucketstore: %w", err)
	}
	if err := d.sync(path.Dir(key)); err != nil {
		return fmt.Errorf("bucketstore: %w", err)
	}
	return nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// List implements [Files].
func (d *Directory) List(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		start := path.Dir(prefix + "x")
		err := fs.WalkDir(d.root.FS(), start, func(name string, e fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case e.IsDir():
				if name != "." && !strings.HasPrefix(name+"/", prefix) && !strings.HasPrefix(prefix, name+"/") {
					return fs.SkipDir
				}
				return nil
			case !strings.HasPrefix(name, prefix) || !isKey(name):
				return nil
			}
			st, err := d.root.Stat(name)
			switch {
			case errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular():
				return nil
			case err != nil:
				return err
			case !yield(Entry{Key: name, Size: st.Size(), Modified: st.ModTime()}, nil):
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(Entry{}, fmt.Errorf("bucketstore: %w", err))
		}
	}
}

// Sweep removes what writers that died have left behind: files that have not been written to for a day.
func (d *Directory) Sweep(ctx context.Context) error {
	for e, err := range d.leftovers(ctx, staleTemp) {
		if err == nil {
			err = d.removeLeftover(e.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *Directory) removeLeftover(key string) error {
	if err := ignoreAbsent(d.root.Remove(key)); err != nil {
		return fmt.Errorf("bucketstore: %w", err)
	}
	return nil
}

// leftovers yields the files that are being written, and have not been written to for a time.
func (d *Directory) leftovers(ctx context.Context, olderThan time.Duration) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		err := fs.WalkDir(d.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil || e.IsDir() || !strings.HasPrefix(e.Name(), tempPrefix) {
				return ignoreAbsent(err)
			}
			st, err := e.Info()
			if err != nil || time.Since(st.ModTime()) < olderThan {
				return ignoreAbsent(err)
			}
			if !yield(Entry{Key: name, Size: st.Size(), Modified: st.ModTime()}, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(Entry{}, fmt.Errorf("bucketstore: %w", err))
		}
	}
}
