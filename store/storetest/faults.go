package storetest

import (
	"context"
	"io"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// Plain hides every optional ability of a store.
func Plain(s store.Store) store.Store { return plain{s} }

type plain struct{ store.Store }

// Faults is a store whose archives fail as asked. It has no optional abilities.
type Faults struct {
	store.Store
	// Read wraps what Open returned; see [FailAt], [CutAt], [FlipAt] and [BlockAt]. nil changes nothing.
	Read func(ctx context.Context, r io.ReadCloser) io.ReadCloser
	// InfoErr is what Info fails with for a path for which it isn't nil. nil fails never.
	InfoErr func(hash narinfo.HashPart) error
}

// Info implements [store.Store].
func (f *Faults) Info(ctx context.Context, hash narinfo.HashPart) (*narinfo.Info, error) {
	if f.InfoErr != nil {
		if err := f.InfoErr(hash); err != nil {
			return nil, err
		}
	}
	return f.Store.Info(ctx, hash)
}

// Open implements [store.Store].
func (f *Faults) Open(ctx context.Context, info *narinfo.Info) (io.ReadCloser, error) {
	r, err := f.Store.Open(ctx, info)
	if err != nil || f.Read == nil {
		return r, err
	}
	return f.Read(ctx, r), nil
}

// FailAt makes archives fail with err once n bytes have been read.
func FailAt(n int64, err error) func(context.Context, io.ReadCloser) io.ReadCloser {
	return func(_ context.Context, r io.ReadCloser) io.ReadCloser {
		return &fault{ReadCloser: r, at: n, then: func([]byte) (int, error) { return 0, err }}
	}
}

// CutAt makes archives end after n bytes as if that were all.
func CutAt(n int64) func(context.Context, io.ReadCloser) io.ReadCloser { return FailAt(n, io.EOF) }

// FlipAt makes archives lie: byte n has its lowest bit changed.
func FlipAt(n int64) func(context.Context, io.ReadCloser) io.ReadCloser {
	return func(_ context.Context, r io.ReadCloser) io.ReadCloser {
		f := &fault{ReadCloser: r, at: n}
		f.then = func(p []byte) (int, error) {
			k, err := r.Read(p)
			if k > 0 && !f.done {
				p[0] ^= 1
				f.done = true
			}
			return k, err
		}
		return f
	}
}

// BlockAt makes archives hang after n bytes until the context of Open ends; its error is then theirs.
func BlockAt(n int64) func(context.Context, io.ReadCloser) io.ReadCloser {
	return func(ctx context.Context, r io.ReadCloser) io.ReadCloser {
		return &fault{ReadCloser: r, at: n, then: func([]byte) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}}
	}
}

// fault reads at bytes as they are, and goes on with then.
type fault struct {
	io.ReadCloser
	at   int64
	done bool
	then func(p []byte) (int, error)
}

func (f *fault) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if f.at == 0 {
		return f.then(p)
	}
	n, err := f.ReadCloser.Read(p[:min(int64(len(p)), f.at)])
	f.at -= int64(n)
	return n, err
}
