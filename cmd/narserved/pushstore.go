package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// registrations returns paths that became valid since the last time. They come again unless seen is called.
type registrations func(ctx context.Context) (paths []narinfo.StorePath, seen func() error, err error)

// registrar is a store that numbers its paths in the order in which they became valid.
type registrar interface {
	Registered(ctx context.Context, after int64) (paths []narinfo.StorePath, last int64, err error)
}

const (
	seenFile = ".watch-store" // in the queue: the number of the last path that was put there
	listPoll = 30 * time.Second
)

// watchStore begins to watch a store: from where another that had the same queue left off, else from now on.
func watchStore(ctx context.Context, s store.Store, q queue) (registrations, error) {
	if numbered, ok := s.(registrar); ok {
		watch, err := watchNumbers(ctx, numbered, q)
		if !errors.Is(err, store.ErrUnsupported) {
			return watch, err
		}
	}
	return watchList(ctx, s)
}

// watchNumbers asks for what has a higher number than the last, which costs next to nothing.
func watchNumbers(ctx context.Context, s registrar, q queue) (registrations, error) {
	if err := os.MkdirAll(q.dir, 0o755); err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	file := filepath.Join(q.dir, seenFile)
	last, err := lastRegistered(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	text, _ := os.ReadFile(file)
	if saved, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && saved >= 0 && saved < last {
		last = saved // a higher number is of another database
	}
	save := func(n int64) error { return replaceDurably(file, []byte(strconv.FormatInt(n, 10)+"\n")) }
	if err := save(last); err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	return func(ctx context.Context) ([]narinfo.StorePath, func() error, error) {
		paths, next, err := s.Registered(ctx, last)
		return paths, func() error {
			if next == last {
				return nil
			}
			last = next
			return save(next)
		}, err
	}, nil
}

func lastRegistered(ctx context.Context, s registrar) (last int64, err error) {
	for {
		paths, next, err := s.Registered(ctx, last)
		if err != nil || len(paths) == 0 {
			return last, err
		}
		last = next
	}
}

// watchList lists the whole store now and then.
func watchList(ctx context.Context, s store.Store) (registrations, error) {
	known, err := listed(ctx, s)
	if err != nil {
		return nil, hint(fmt.Errorf("push: this store cannot be watched: %w", err), "--store local reads Nix's database")
	}
	var looked time.Time
	return func(ctx context.Context) (paths []narinfo.StorePath, seen func() error, err error) {
		if time.Since(looked) < listPoll {
			return nil, func() error { return nil }, nil
		}
		now, err := listed(ctx, s)
		if err != nil {
			return nil, nil, err
		}
		looked = time.Now()
		for path := range now {
			if !known[path] {
				paths = append(paths, path)
			}
		}
		return paths, func() error { known = now; return nil }, nil
	}, nil
}

func listed(ctx context.Context, s store.Store) (map[narinfo.StorePath]bool, error) {
	lister, ok := s.(store.Lister)
	if !ok {
		return nil, store.ErrUnsupported
	}
	all := make(map[narinfo.StorePath]bool)
	for path, err := range lister.Paths(ctx) {
		if err != nil {
			return nil, err
		}
		all[path] = true
	}
	return all, nil
}
