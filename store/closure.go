package store

import (
	"context"
	"fmt"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// Closure returns the metadata of the roots and of everything that they refer to, directly or not, each once and
// after all that it refers to itself. The same store and roots give the same order.
//
// A root or reference that the store lacks is an error for which errors.Is(err, [ErrNotFound]) is true, and which
// names the path and who refers to it. References that run in a circle, which no honest store has, are tolerated;
// the order within the circle is then that of a walk from the first root that reaches it.
func Closure(ctx context.Context, s Store, roots ...narinfo.StorePath) ([]*narinfo.Info, error) {
	w := &closureWalk{store: s, seen: map[narinfo.StorePath]bool{}}
	for _, root := range roots {
		if err := w.walk(ctx, root); err != nil {
			return nil, err
		}
	}
	return w.order, nil
}

// closureWalk is a depth-first walk with a stack of its own.
type closureWalk struct {
	store Store
	seen  map[narinfo.StorePath]bool // on the stack, or in order
	stack []closureFrame
	order []*narinfo.Info
}

type closureFrame struct {
	info *narinfo.Info
	next int // index of the reference to follow next
}

func (w *closureWalk) walk(ctx context.Context, root narinfo.StorePath) error {
	if err := w.push(ctx, root); err != nil {
		return fmt.Errorf("store: closure: %w", err)
	}
	for len(w.stack) > 0 {
		top := &w.stack[len(w.stack)-1]
		if top.next == len(top.info.References) {
			w.order = append(w.order, top.info)
			w.stack = w.stack[:len(w.stack)-1]
			continue
		}
		reference, referrer := top.info.References[top.next], top.info.StorePath
		top.next++
		if err := w.push(ctx, reference); err != nil {
			return fmt.Errorf("store: closure: %q refers to %w", referrer, err)
		}
	}
	return nil
}

// push puts a path on the stack unless it has been there.
func (w *closureWalk) push(ctx context.Context, path narinfo.StorePath) error {
	if w.seen[path] {
		return nil
	}
	info, err := Lookup(ctx, w.store, path)
	if err != nil {
		return err
	}
	w.seen[path] = true
	w.stack = append(w.stack, closureFrame{info: info})
	return nil
}

// Lookup is Info for a whole path: one that the store knows by another name or in another directory is not found.
// Its errors name the path.
func Lookup(ctx context.Context, s Store, path narinfo.StorePath) (*narinfo.Info, error) {
	info, err := s.Info(ctx, path.HashPart())
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	if info.StorePath != path {
		return nil, fmt.Errorf("%q: only %q has its hash part: %w", path, info.StorePath, ErrNotFound)
	}
	return info, nil
}

// Current is Info for the very content that info is about: a path that has other content by now is not found.
func Current(ctx context.Context, s Store, info *narinfo.Info) (*narinfo.Info, error) {
	now, err := s.Info(ctx, info.StorePath.HashPart())
	if err != nil {
		return nil, err
	}
	if now.StorePath != info.StorePath || now.NarHash != info.NarHash || now.NarSize != info.NarSize {
		return nil, fmt.Errorf("%q has other content now: %w", info.StorePath, ErrNotFound)
	}
	return now, nil
}
