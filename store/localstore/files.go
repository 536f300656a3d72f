package localstore

import (
	"errors"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/voidnxlab/nixtrap/nar"
)

// errTruncated reports a file that ends before its size.
var errTruncated = errors.New("file is too short")

// fileReader opens a path's regular files one after the other, without os.File and its costs and remembers
// which, to compare all of them in the end.
// Every name is relative to the path's folder, which stays open;
// a component that became a symlink leads to a file with another identity.
type fileReader struct {
	layout *nar.Layout
	ids    []nar.FileID // expected
	real   string       // the path itself, for one that is no folder
	dir    int          // descriptor of the path's folder, or none
	fd     int          // of the open file, or none
	seen   []int        // files to compare in the end
	exact  bool         // all that were opened were as expected, when opened and when closed
	name   string
	path   []byte // room for one
	opened nar.FileID
}

const none = -1

// begin opens the path's folder.
func (f *fileReader) begin(o *object) error {
	f.exact, f.dir, f.fd = true, none, none
	return f.restart(o)
}

// restart goes on with the files of another object with the same layout.
func (f *fileReader) restart(o *object) error {
	f.end()
	f.layout, f.ids, f.real = o.layout, o.ids, o.real
	if o.layout.Entry(0).Type != nar.TypeDirectory {
		_, present, err := statPath(o.real)
		if err == nil && !present {
			err = &fs.PathError{Op: "lstat", Path: o.real, Err: unix.ENOENT}
		}
		return err
	}
	var err error
	f.dir, err = openat(unix.AT_FDCWD, o.real, unix.O_DIRECTORY)
	if err != nil {
		f.dir = none
		return &fs.PathError{Op: "open", Path: o.real, Err: err}
	}
	return nil
}

// end closes what is open. It may be called again.
func (f *fileReader) end() {
	for _, fd := range []*int{&f.dir, &f.fd} {
		if *fd != none {
			_ = unix.Close(*fd)
			*fd = none
		}
	}
}

func (f *fileReader) isOpen() bool { return f.fd != none }

// locate returns what names a file to the system.
func (f *fileReader) locate(i int) (dir int, name string) {
	if f.dir == none {
		return unix.AT_FDCWD, f.real
	}
	f.path = f.layout.AppendPath(f.path[:0], i)
	return f.dir, string(f.path)
}

// open opens a regular file, and returns its identity.
func (f *fileReader) open(i int) (id nar.FileID, err error) {
	dir, name := f.locate(i)
	// O_NONBLOCK, for what is there now may be a pipe.
	fd, err := openat(dir, name, unix.O_NONBLOCK)
	if err != nil {
		return id, f.failed("open", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return id, f.failed("fstat", name, err)
	}
	if id = idOf(&st); id != f.ids[i] {
		f.exact = false
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return id, f.failed("open", name, unix.ENOENT)
	}
	if f.isOpen() {
		_ = unix.Close(f.fd)
	}
	f.fd, f.name, f.opened = fd, name, id
	f.seen = append(f.seen, i)
	return id, nil
}

// readProved reads a part of a file, and reports whether that is a part of what was proved: who finds the file as it was
// then after reading has read what it was then. Such a file is not compared in the end.
func (f *fileReader) readProved(seg nar.Segment, b []byte) bool {
	dir, name := f.locate(seg.File)
	fd, err := openat(dir, name, unix.O_NONBLOCK)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	for at := 0; at < len(b); {
		n, err := unix.Pread(fd, b[at:], seg.Offset+int64(at))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || n == 0:
			return false
		default:
			at += n
		}
	}
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && idOf(&st) == f.ids[seg.File]
}

// read reads at least one byte from the open file.
func (f *fileReader) read(b []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pread(f.fd, b, offset)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, f.failed("read", f.name, err)
		case n == 0:
			return 0, f.failed("read", f.name, errTruncated)
		}
		return n, nil
	}
}

// close closes the open file, and returns its identity at that moment.
func (f *fileReader) close() (id nar.FileID, err error) {
	var st unix.Stat_t
	err = unix.Fstat(f.fd, &st)
	_ = unix.Close(f.fd)
	f.fd = none
	if err != nil {
		return id, f.failed("fstat", f.name, err)
	}
	if id = idOf(&st); id != f.opened {
		f.exact = false
	}
	return id, nil
}

// expectAll makes unchanged compare all files, whether they were opened or not.
func (f *fileReader) expectAll() {
	f.seen = f.seen[:0]
	for i, id := range f.ids {
		if id != (nar.FileID{}) {
			f.seen = append(f.seen, i)
		}
	}
}

// manyFiles is from where on comparing on two goroutines is faster.
const manyFiles = 1000

// unchanged compares all files that were opened with what is expected.
// For a whole archive of a path without a proof these are all that have content.
func (f *fileReader) unchanged(same func(now, expected nar.FileID) bool) (unchanged bool, err error) {
	if len(f.seen) < manyFiles {
		return f.compare(f.seen, same)
	}
	half := len(f.seen) / 2
	other := *f
	other.path = nil
	var wg sync.WaitGroup
	var ok bool
	var otherErr error
	wg.Go(func() { ok, otherErr = other.compare(f.seen[half:], same) })
	unchanged, err = f.compare(f.seen[:half], same)
	wg.Wait()
	if err == nil {
		err = otherErr
	}
	return unchanged && ok, err
}

func (f *fileReader) compare(files []int, same func(now, expected nar.FileID) bool) (bool, error) {
	for _, i := range files {
		dir, name := f.locate(i)
		var st unix.Stat_t
		err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return false, f.failed("stat", name, err)
		}
		if !same(idOf(&st), f.ids[i]) {
			return false, nil
		}
	}
	return true, nil
}

func (f *fileReader) failed(op, name string, err error) error {
	if f.dir != none {
		name = f.real + "/" + name
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func sameID(a, b nar.FileID) bool { return a == b }

// sameContent reports whether two identities differ in the change time at most, which a hard link made or removed
// changes too.
func sameContent(a, b nar.FileID) bool {
	a.Ctime = b.Ctime
	return a == b
}

func idOf(st *unix.Stat_t) nar.FileID {
	s := stampOf(st)
	return nar.FileID{Dev: s.dev, Ino: s.ino, Size: s.size, Mtime: s.mtime, Ctime: s.ctime}
}

func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// vanished reports that something on the way to a file is not what it was.
func vanished(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) ||
		errors.Is(err, unix.ENXIO)
}
