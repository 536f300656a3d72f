package nar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// What walks of the file system share. Everything is relative to descriptors of directories, so that a component that
// is replaced by a symlink meanwhile leads nowhere else.

const openDirectory = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// openParent opens the directory that holds path, and returns it with path's last component.
func openParent(path string) (dir int, name string, err error) {
	if path == "" {
		return -1, "", &fs.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	}
	parent, name := filepath.Split(filepath.Clean(path))
	if parent == "" {
		parent = "."
	}
	if name == "" {
		name = "." // the file system's root
	}
	err = ignoringEINTR(func() error {
		dir, err = unix.Open(parent, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, "", &fs.PathError{Op: "open", Path: parent, Err: err}
	}
	return dir, name, nil
}

func openAt(dir int, name string, flags int) (fd int, err error) {
	err = ignoringEINTR(func() error {
		fd, err = unix.Openat(dir, name, flags, 0)
		return err
	})
	return fd, err
}

// names lists a directory in an archive's order.
func names(ctx context.Context, fd int, buf []byte) ([]string, error) {
	var list []string
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var n int
		err := ignoringEINTR(func() (err error) { n, err = unix.ReadDirent(fd, buf); return err })
		if err != nil {
			return nil, os.NewSyscallError("getdents", err)
		}
		if n == 0 {
			slices.Sort(list)
			return list, nil
		}
		_, _, list = unix.ParseDirent(buf[:n], -1, list)
	}
}

func readLink(dir int, name string) (string, error) {
	buf := make([]byte, MaxTarget+1)
	var n int
	err := ignoringEINTR(func() (err error) { n, err = unix.Readlinkat(dir, name, buf); return err })
	if err != nil {
		return "", os.NewSyscallError("readlinkat", err)
	}
	if reason := targetError(string(buf[:n])); reason != "" {
		return "", errors.New(reason)
	}
	return string(buf[:n]), nil
}

// fileType translates a mode, and refuses what no archive can hold.
func fileType(mode uint32) (Type, error) {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return TypeRegular, nil
	case unix.S_IFDIR:
		return TypeDirectory, nil
	case unix.S_IFLNK:
		return TypeSymlink, nil
	case unix.S_IFIFO:
		return 0, errors.New("a named pipe has no place in an archive")
	case unix.S_IFSOCK:
		return 0, errors.New("a socket has no place in an archive")
	}
	return 0, errors.New("a device has no place in an archive")
}

// at names the node that an error is about.
func at(op, root, path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("nar: %s %q: %w", op, filepath.Join(root, path), err)
}
