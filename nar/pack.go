package nar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Pack writes the archive of what lies at path: a file, a directory or a symlink, which is not followed.
// Every step is relative to the descriptor of the directory before it, with one stat a node.
// A named pipe, socket or device is an error, and so is a file whose size changes while it is read.
// Pack writes in pieces of up to 256 KiB; what was written before an error is no archive.
func Pack(ctx context.Context, w io.Writer, path string) error {
	dir, name, err := openParent(path)
	if err != nil {
		return fmt.Errorf("nar: %w", err)
	}
	defer unix.Close(dir)
	p := packer{ctx: ctx, root: path, w: NewWriter(w), dirents: make([]byte, 32<<10), buf: make([]byte, 256<<10)}
	if err := p.node(dir, name, ""); err != nil {
		return err
	}
	return p.w.Close()
}

type packer struct {
	ctx     context.Context
	root    string
	w       *Writer
	dirents []byte
	buf     []byte
}

func (p *packer) node(dir int, name, path string) error {
	// A named pipe must not block the open; a symlink answers ELOOP.
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EMLINK) {
		return p.symlink(dir, name, path)
	}
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EOPNOTSUPP) {
		err = errors.New("a socket has no place in an archive")
	}
	if err != nil {
		return at("pack", p.root, path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return at("stat", p.root, path, err)
	}
	typ, err := fileType(uint32(st.Mode))
	if err != nil {
		return at("pack", p.root, path, err)
	}
	if typ == TypeDirectory {
		return p.directory(fd, path)
	}
	h := Header{Path: path, Type: TypeRegular, Size: st.Size, Executable: st.Mode&unix.S_IXUSR != 0}
	if err := p.w.WriteHeader(&h); err != nil {
		return err
	}
	return p.content(fd, &h)
}

func (p *packer) symlink(dir int, name, path string) error {
	target, err := readLink(dir, name)
	if err != nil {
		return at("pack", p.root, path, err)
	}
	return p.w.WriteHeader(&Header{Path: path, Type: TypeSymlink, Target: target})
}

func (p *packer) directory(fd int, path string) error {
	list, err := names(p.ctx, fd, p.dirents)
	if err != nil {
		return at("pack", p.root, path, err)
	}
	if err := p.w.WriteHeader(&Header{Path: path, Type: TypeDirectory}); err != nil {
		return err
	}
	for _, name := range list {
		if err := p.node(fd, name, join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) content(fd int, h *Header) error {
	for left := h.Size; left > 0; {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		n, err := p.read(fd, left)
		if err != nil {
			return at("pack", p.root, h.Path, err)
		}
		if n == 0 {
			return at("pack", p.root, h.Path, fmt.Errorf("%w: the file shrank while it was read", io.ErrUnexpectedEOF))
		}
		if _, err := p.w.Write(p.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	if n, err := p.read(fd, 1); err != nil || n > 0 {
		return at("pack", p.root, h.Path, cmp.Or(err, errors.New("the file grew while it was read")))
	}
	return nil
}

// read reads at most limit bytes into p.buf.
func (p *packer) read(fd int, limit int64) (n int, err error) {
	err = ignoringEINTR(func() error {
		n, err = unix.Read(fd, p.buf[:min(int64(len(p.buf)), limit)])
		return err
	})
	return n, os.NewSyscallError("read", err)
}
