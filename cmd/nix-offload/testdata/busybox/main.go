// Busybox is the busybox beside this file, by whatever name it is called.
package main

import (
	_ "embed"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

//go:embed busybox.bin
var program []byte

const emptyPath = 0x1000 // AT_EMPTY_PATH

func main() {
	// The numbers of memfd_create and execveat.
	create, exec := uintptr(319), uintptr(322)
	if runtime.GOARCH == "arm64" {
		create, exec = 279, 281
	}
	name, nothing := []byte("busybox\x00"), []byte{0}
	fd, _, errno := syscall.Syscall(create, uintptr(unsafe.Pointer(&name[0])), 1, 0)
	fail(errno)
	file := os.NewFile(fd, "busybox")
	if _, err := file.Write(program); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
	args, err := syscall.SlicePtrFromStrings(append([]string{"busybox"}, os.Args[1:]...))
	if err != nil {
		os.Exit(125)
	}
	env, err := syscall.SlicePtrFromStrings(os.Environ())
	if err != nil {
		os.Exit(125)
	}
	_, _, errno = syscall.Syscall6(exec, fd, uintptr(unsafe.Pointer(&nothing[0])), uintptr(unsafe.Pointer(&args[0])),
		uintptr(unsafe.Pointer(&env[0])), emptyPath, 0)
	fail(errno)
}

func fail(errno syscall.Errno) {
	if errno != 0 {
		fmt.Fprintln(os.Stderr, errno)
		os.Exit(126)
	}
}
