package nar

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Unpack restores an archive as name inside root. name must not exist; its directory must.
//
// Everything goes through root, which no symlink leads out of, and an archive can't name anything twice;
// so a hostile archive writes below name or nowhere.
// Files get mode 0444, executable ones 0555, less the umask, and directories 0555, as in a Nix store.
// Symlinks are made, and never followed.
// On an error the whole tree is removed again. r is read to its end: what follows the archive is an error.
func Unpack(root *os.Root, name string, r io.Reader) error {
	u := unpacker{root: root, name: name, r: NewReader(r), buf: make([]byte, 256<<10)}
	err := u.all()
	if err == nil {
		return nil
	}
	if u.made {
		u.unlock()
		err = errors.Join(err, root.RemoveAll(name))
	}
	return fmt.Errorf("nar: unpack %q: %w", name, err)
}

type unpacker struct {
	root *os.Root
	name string
	r    *Reader
	buf  []byte
	made bool     // name is ours: it was created, which fails where something is
	dirs []string // in archive order; they become read-only at the end
}

func (u *unpacker) all() error {
	for {
		h, err := u.r.Next()
		if errors.Is(err, io.EOF) {
			return u.lock()
		}
		if err != nil {
			return err
		}
		if err := u.node(h); err != nil {
			return err
		}
	}
}

func (u *unpacker) node(h *Header) error {
	path := filepath.Join(u.name, h.Path)
	switch h.Type {
	case TypeDirectory:
		if err := u.root.Mkdir(path, 0o755); err != nil {
			return err
		}
		u.dirs = append(u.dirs, path)
		u.made = true
		return nil
	case TypeSymlink:
		err := u.root.Symlink(h.Target, path)
		u.made = u.made || err == nil
		return err
	}
	return u.file(path, h)
}

func (u *unpacker) file(path string, h *Header) error {
	mode := os.FileMode(0o444)
	if h.Executable {
		mode = 0o555
	}
	f, err := u.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	u.made = true
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, u.r, u.buf)
	return errors.Join(err, f.Close())
}

// lock takes the right to write from the directories, innermost first.
func (u *unpacker) lock() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		if err := u.root.Chmod(u.dirs[i], 0o555); err != nil {
			return err
		}
	}
	return nil
}

// unlock undoes lock, so that the tree can be removed.
func (u *unpacker) unlock() {
	for _, dir := range u.dirs {
		_ = u.root.Chmod(dir, 0o755)
	}
}
