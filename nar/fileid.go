package nar

import (
	"os"

	"golang.org/x/sys/unix"
)

// FileID identifies the content of a regular file at one moment.
// While it stays equal, nobody has written to the file through the file system, within the granularity of the
// file system's clock. A writer through a shared mapping may be noticed late. FileIDs are comparable.
type FileID struct {
	Dev, Ino     uint64
	Size         int64 // bytes
	Mtime, Ctime int64 // nanoseconds since 1970
}

// FileIDOf stats an open file.
func FileIDOf(f *os.File) (FileID, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return FileID{}, err
	}
	var id FileID
	var statErr error
	err = raw.Control(func(fd uintptr) { id, statErr = FileIDOfDescriptor(int(fd)) })
	if err == nil {
		err = statErr
	}
	return id, err
}

// FileIDOfDescriptor is [FileIDOf] for a raw descriptor.
func FileIDOfDescriptor(fd int) (FileID, error) {
	var st unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return FileID{}, os.NewSyscallError("fstat", err)
	}
	return fileID(&st), nil
}

func fileID(st *unix.Stat_t) FileID {
	return FileID{
		Dev: uint64(st.Dev), Ino: uint64(st.Ino), Size: st.Size,
		Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}
}
