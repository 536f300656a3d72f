package nar

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ScanLayout makes the layout of the archive of what lies at path by walking it, without opening a regular file:
// one fstatat a node, relative to its directory. A symlink at path is not followed.
// ids has one element a node, in archive order; those of directories and symlinks are zero.
// It fails like [Pack] does on what no archive can hold.
func ScanLayout(ctx context.Context, path string) (l *Layout, ids []FileID, err error) {
	dir, name, err := openParent(path)
	if err != nil {
		return nil, nil, fmt.Errorf("nar: %w", err)
	}
	defer unix.Close(dir)
	s := scanner{ctx: ctx, root: path, buf: make([]byte, 32<<10)}
	if err := s.node(dir, name, "", ""); err != nil {
		return nil, nil, err
	}
	return s.b.layout(), s.ids, nil
}

type scanner struct {
	ctx  context.Context
	root string
	buf  []byte
	b    builder
	ids  []FileID
}

// node adds the node called name in dir; entry is its name in the archive.
func (s *scanner) node(dir int, name, entry, path string) error {
	if len(s.b.open) >= MaxDepth {
		return at("scan", s.root, path, errors.New(tooDeep))
	}
	var st unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return at("stat", s.root, path, err)
	}
	h := Header{}
	if h.Type, err = fileType(uint32(st.Mode)); err != nil {
		return at("scan", s.root, path, err)
	}
	var id FileID
	switch h.Type {
	case TypeDirectory:
		return s.directory(dir, name, entry, path)
	case TypeSymlink:
		if h.Target, err = readLink(dir, name); err != nil {
			return at("scan", s.root, path, err)
		}
	case TypeRegular:
		h.Size, h.Executable = st.Size, st.Mode&unix.S_IXUSR != 0
		id = fileID(&st)
	}
	s.b.add(entry, &h)
	s.ids = append(s.ids, id)
	return nil
}

func (s *scanner) directory(parent int, name, entry, path string) error {
	fd, err := openAt(parent, name, openDirectory)
	if err != nil {
		return at("open", s.root, path, err)
	}
	defer unix.Close(fd)
	list, err := names(s.ctx, fd, s.buf)
	if err != nil {
		return at("scan", s.root, path, err)
	}
	s.b.add(entry, &Header{Type: TypeDirectory})
	s.ids = append(s.ids, FileID{})
	for _, child := range list {
		if err := s.node(fd, child, child, join(path, child)); err != nil {
			return err
		}
	}
	s.b.end()
	return nil
}
