package narfile_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/internal/archivetest"
	"github.com/voidnxlab/nixtrap/internal/narfile"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

var errBoom = errors.New("boom")

func sha(b []byte) narinfo.Hash {
	digest := sha256.Sum256(b)
	h, err := narinfo.NewHash(narinfo.SHA256, digest[:])
	if err != nil {
		panic(err)
	}
	return h
}

// readers read a source in ways that differ in how much comes at once, and in when the end is told.
var readers = map[string]func(io.Reader) io.Reader{
	"plain":    func(r io.Reader) io.Reader { return r },
	"one byte": iotest.OneByteReader,
	"half":     iotest.HalfReader,
	"data err": iotest.DataErrReader,
}

func TestReader(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100)
	for _, size := range []int64{-1, int64(len(data))} {
		for _, hash := range []narinfo.Hash{{}, sha(data)} {
			for name, wrap := range readers {
				require.NoError(t, iotest.TestReader(narfile.NewReader(wrap(bytes.NewReader(data)), size, hash, nil), data), name)
				for outer, wrapOuter := range readers {
					if outer == "data err" {
						continue // it loses data that come with the end
					}
					got, err := io.ReadAll(wrapOuter(narfile.NewReader(wrap(bytes.NewReader(data)), size, hash, nil)))
					require.NoError(t, err, "%s, %s", name, outer)
					require.Equal(t, data, got)
				}
			}
		}
	}
	r := narfile.NewReader(bytes.NewReader(nil), -1, sha(nil), nil)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Empty(t, got)
}

// Whatever is wrong, the last byte does not come out, the error is the right one, and it stays.
func TestReaderWithholds(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100)
	size := int64(len(data))
	flipped := bytes.Clone(data)
	flipped[0] ^= 1
	verdict := func() error { return errBoom }
	fail := func(n int64) func() io.Reader {
		return func() io.Reader {
			return io.MultiReader(io.LimitReader(bytes.NewReader(data), n), iotest.ErrReader(errBoom))
		}
	}
	from := func(b []byte) func() io.Reader { return func() io.Reader { return bytes.NewReader(b) } }
	for name, c := range map[string]struct {
		src  func() io.Reader
		size int64
		hash narinfo.Hash
		more func() error
		want error
	}{
		"short":                {from(data[:size-1]), size, sha(data), nil, store.ErrCorrupt},
		"empty":                {from(nil), size, sha(data), nil, store.ErrCorrupt},
		"long":                 {from(append(bytes.Clone(data), 'x')), size, sha(data), nil, store.ErrCorrupt},
		"wrong":                {from(flipped), size, sha(data), nil, store.ErrCorrupt},
		"wrong, unsized":       {from(flipped), -1, sha(data), nil, store.ErrCorrupt},
		"short, unsized":       {from(data[:size-1]), -1, sha(data), nil, store.ErrCorrupt},
		"verdict":              {from(data), size, sha(data), verdict, errBoom},
		"verdict, unsized":     {from(data), -1, narinfo.Hash{}, verdict, errBoom},
		"failing":              {fail(size / 2), size, sha(data), nil, errBoom},
		"failing at the end":   {fail(size), size, sha(data), nil, errBoom},
		"failing, unsized":     {fail(size), -1, sha(data), nil, errBoom},
		"failing at the start": {fail(0), -1, sha(data), nil, errBoom},
	} {
		for how, wrap := range readers {
			r := narfile.NewReader(wrap(c.src()), c.size, c.hash, c.more)
			got, err := io.ReadAll(r)
			require.ErrorIs(t, err, c.want, "%s, %s", name, how)
			require.Less(t, len(got), len(data), "%s, %s", name, how)
			n, err := r.Read(make([]byte, 1))
			require.Zero(t, n)
			require.ErrorIs(t, err, c.want, "%s, %s", name, how)
		}
	}
}

func TestNAR(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 10_000)
	for _, compression := range []string{"none", "zstd", "gzip", "xz"} {
		t.Run(compression, func(t *testing.T) {
			require.True(t, narfile.CanDecode(compression))
			info := &narinfo.Info{Compression: compression, NarHash: sha(data), NarSize: int64(len(data))}
			file := archivetest.Compress(t, compression, data)
			if compression != "none" {
				require.Equal(t, compression, narfile.Detect(file))
			}
			read := func(src io.Reader) ([]byte, error) {
				r, err := narfile.OpenNAR(t.Context(), info, io.NopCloser(src), nil)
				if err != nil {
					return nil, err
				}
				got, err := io.ReadAll(r)
				require.NoError(t, r.Close())
				require.NoError(t, r.Close())
				return got, err
			}
			got, err := read(bytes.NewReader(file))
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got))
			for n := 0; n < len(file); n += 1 + len(file)/50 {
				got, err := read(bytes.NewReader(file[:n]))
				require.ErrorIs(t, err, store.ErrCorrupt, "cut at %d", n)
				require.Less(t, len(got), len(data))
				_, err = read(io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(errBoom)))
				require.ErrorIs(t, err, errBoom, "the source's failure is no damage")
				require.NotErrorIs(t, err, store.ErrCorrupt)
			}
			_, err = read(io.MultiReader(bytes.NewReader(file), bytes.NewReader([]byte("more"))))
			require.ErrorIs(t, err, store.ErrCorrupt)
		})
	}
	require.False(t, narfile.CanDecode("br"))
	_, err := narfile.OpenNAR(t.Context(), &narinfo.Info{Compression: "br"}, io.NopCloser(bytes.NewReader(nil)), nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := narfile.OpenNAR(ctx, &narinfo.Info{Compression: "none", NarSize: 4}, io.NopCloser(bytes.NewReader([]byte("data"))), nil)
	require.NoError(t, err)
	cancel()
	_, err = r.Read(make([]byte, 4))
	require.ErrorIs(t, err, context.Canceled)
}

// closing counts how often a source is closed.
type closing struct {
	io.Reader
	closed int
}

func (c *closing) Close() error { c.closed++; return nil }

// Who opens a NAR or a log hands its source over, also where that fails, and hears of damage once.
func TestOpenTakesTheSourceOver(t *testing.T) {
	info := &narinfo.Info{Compression: "gzip", NarHash: sha([]byte("data")), NarSize: 4}
	for name, file := range map[string][]byte{
		"no gzip": []byte("data"), "wrong": archivetest.Compress(t, "gzip", []byte("dart")), "right": archivetest.Compress(t, "gzip", []byte("data")),
	} {
		src, blamed := &closing{Reader: bytes.NewReader(file)}, 0
		r, err := narfile.OpenNAR(t.Context(), info, src, func(err error) error {
			require.Zero(t, src.closed, "%s: it can still be looked at", name)
			var d *narfile.Damage
			require.ErrorAs(t, err, &d)
			blamed++
			return errBoom
		})
		if err == nil {
			_, err = io.ReadAll(r)
			_, again := r.Read(make([]byte, 1))
			require.Equal(t, err != nil, errors.Is(again, errBoom), name)
			require.NoError(t, r.Close())
			require.NoError(t, r.Close())
		}
		require.Equal(t, name == "right", err == nil, "%s: %v", name, err)
		require.Equal(t, name != "right", blamed == 1, name)
		require.Equal(t, 1, src.closed, name)
	}
	src := &closing{Reader: bytes.NewReader([]byte("\x28\xb5\x2f\xfd is no zstd"))}
	r, err := narfile.OpenLog(src)
	require.NoError(t, err)
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, store.ErrCorrupt)
	require.NoError(t, r.Close())
	require.Equal(t, 1, src.closed)
	src = &closing{Reader: iotest.ErrReader(errBoom)}
	_, err = narfile.OpenLog(src)
	require.ErrorIs(t, err, errBoom)
	require.Equal(t, 1, src.closed)
}
