package nixproto_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// sink takes uploads for nothing, and hands out one archive.
type sink struct {
	bare
	nar []byte
}

func (sink) AddMultipleToStore(ctx context.Context, paths nixproto.Source, _ *nixproto.AddOptions) error {
	for {
		_, nar, err := paths.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			_, err = io.Copy(io.Discard, nar)
		}
		if err != nil {
			return err
		}
	}
}

func (s sink) NARFromPath(context.Context, narinfo.StorePath) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s.nar)), nil
}

// benchClient joins a client and a server by a unix socket.
func benchClient(b *testing.B, h nixproto.Handler) *nixproto.Client {
	listener, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	require.NoError(b, err)
	b.Cleanup(func() { listener.Close() })
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err == nil {
			_ = nixproto.Serve(b.Context(), conn, func(context.Context, *nixproto.Session) (nixproto.Handler, error) { return h, nil }, trusted)
		}
	}()
	c, err := nixproto.Dial(b.Context(), listener.Addr().String(), nil)
	require.NoError(b, err)
	b.Cleanup(func() {
		c.Close()
		<-done
	})
	return c
}

func BenchmarkAddMultipleToStore(b *testing.B) {
	c := benchClient(b, sink{bare: bare{newShelf()}})
	u := upload("big", string(make([]byte, 64<<20)))
	b.SetBytes(u.Info.Info.NarSize)
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, c.AddMultipleToStore(b.Context(), nixproto.Uploads(u), nil))
	}
}

func BenchmarkNARFromPath(b *testing.B) {
	s := newShelf()
	info, nar := file(absent, string(make([]byte, 64<<20)))
	s.put(info, nar)
	c := benchClient(b, sink{bare{s}, nar})
	b.SetBytes(int64(len(nar)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := c.NARFromPath(b.Context(), absent)
		require.NoError(b, err)
		_, err = io.Copy(io.Discard, r)
		require.NoError(b, err)
		require.NoError(b, r.Close())
	}
}
