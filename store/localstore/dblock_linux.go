package localstore

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Where SQLite keeps its locks in a database file (its file format, section "Locking").
const (
	pendingByte = 0x40000000
	sharedFirst = pendingByte + 2
	sharedSize  = 510
)

// lockShared takes the read lock that SQLite's readers take.
// It belongs to the open file description: unlike SQLite's own locks it is not lost when somebody in this process
// closes another descriptor of the same file.
func lockShared(fd int) error {
	err := flock(fd, unix.F_RDLCK, pendingByte, 1)
	if err == nil {
		err = flock(fd, unix.F_RDLCK, sharedFirst, sharedSize)
		_ = flock(fd, unix.F_UNLCK, pendingByte, 1)
	}
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return errAgain
	case err != nil:
		return fmt.Errorf("%w: %w", errDatabase, os.NewSyscallError("fcntl", err))
	}
	return nil
}

func unlock(fd int) { _ = flock(fd, unix.F_UNLCK, sharedFirst, sharedSize) }

func flock(fd int, kind int16, start, length int64) error {
	return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: start, Len: length})
}
