//go:build unix

package hook

import (
	"os"
	"syscall"
)

// LogFiles returns the files 4 and 5 that Nix gives to a hook, each nil if it is not a pipe, and keeps all files from 3 on
// from programs that this one starts, but for these two. It is for the beginning of a program, before it opens anything.
func LogFiles() (log, reader *os.File) {
	const beyond = 256 // Nix leaks a few more files into a hook
	for fd := 3; fd < beyond; fd++ {
		syscall.CloseOnExec(fd)
	}
	return pipe(4), pipe(5)
}

func pipe(fd int) *os.File {
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil || stat.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		return nil
	}
	return os.NewFile(uintptr(fd), "log")
}
