// Package narfile decodes what binary caches keep compressed, archives and logs, and lets the last bytes of an archive go
// only when they are proved.
package narfile

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// The most memory that a window may take, checked before it is allocated.
const (
	maxZstdWindow   = 128 << 20 // what zstd's own tools accept unless told otherwise
	maxUploadWindow = 16 << 20  // twice what zstd makes at its highest usual level, 19
	maxXZDictionary = 64 << 20  // what the highest level of xz uses
)

// NewDecoder returns a reader of what r yields, decoded, up to the end of r: what follows the compressed data is an
// error, unless it is another stream of the same compression (xz: or its padding): that is decoded, too, as by the
// compressors' own tools and by Nix. The caller closes it, which leaves r alone. compression is as in a narinfo, where ""
// means bzip2; one that is not none, zstd, xz, gzip or bzip2 is [errors.ErrUnsupported].
// It starts no goroutine. It reads ahead of what it yields.
func NewDecoder(compression string, r io.Reader) (io.ReadCloser, error) {
	if compression == "zstd" {
		d, err := newZstd(bufio.NewReaderSize(r, readAhead), maxZstdWindow)
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return newDecoder(compression, r)
}

// readAhead is how much a decoder reads at once.
const readAhead = 64 << 10

func newZstd(r io.Reader, window uint64) (*zstd.Decoder, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
}

// NewUploadDecoder is [NewDecoder] for what strangers send, many at once: a window of zstd has at most 16 MiB.
func NewUploadDecoder(compression string, r io.Reader) (io.ReadCloser, error) {
	if compression == "zstd" {
		return newUploadZstd(r)
	}
	return newDecoder(compression, r)
}

// uploadZstd is a decoder that serves again: a new one costs more than decoding a small NAR.
type uploadZstd struct{ *zstd.Decoder }

var uploadZstds sync.Pool // of *zstd.Decoder

func newUploadZstd(r io.Reader) (io.ReadCloser, error) {
	r = bufio.NewReaderSize(r, readAhead)
	if d, ok := uploadZstds.Get().(*zstd.Decoder); ok {
		return &uploadZstd{d}, d.Reset(r)
	}
	d, err := newZstd(r, maxUploadWindow)
	if err != nil {
		return nil, err
	}
	return &uploadZstd{d}, nil
}

// Close gives the decoder back. A second Close does nothing.
func (u *uploadZstd) Close() error {
	if u.Decoder == nil {
		return nil
	}
	err := u.Reset(nil)
	uploadZstds.Put(u.Decoder)
	u.Decoder = nil
	return err
}

func newDecoder(compression string, r io.Reader) (io.ReadCloser, error) {
	if compression == "none" {
		return io.NopCloser(r), nil
	}
	r = bufio.NewReaderSize(r, readAhead)
	switch compression {
	case "xz":
		d, err := xz.NewReader(r, maxXZDictionary)
		return io.NopCloser(d), err
	case "gzip":
		d, err := gzip.NewReader(r)
		return io.NopCloser(d), err // its Close only repeats an error of Read
	case "bzip2", "":
		return io.NopCloser(bzip2.NewReader(r)), nil
	}
	return nil, fmt.Errorf("compression %q: %w", compression, errors.ErrUnsupported)
}

// CanDecode reports whether [NewDecoder] knows the compression.
func CanDecode(compression string) bool {
	switch compression {
	case "none", "zstd", "xz", "gzip", "bzip2", "":
		return true
	}
	return false
}

// magics are how compressed data begin. A dot stands for any byte.
var magics = []struct{ compression, magic string }{
	{"zstd", "\x28\xb5\x2f\xfd"},
	{"xz", "\xfd7zXZ\x00"},
	{"gzip", "\x1f\x8b\x08"},
	{"bzip2", "BZh.1AY&SY"}, // the dot is the level
}

// magicSize is how many bytes [Detect] wants to see.
const magicSize = 10

// Detect tells how data that begin with head are compressed: "none" if they aren't.
func Detect(head []byte) string {
	for _, m := range magics {
		if hasMagic(head, m.magic) {
			return m.compression
		}
	}
	return "none"
}

func hasMagic(head []byte, magic string) bool {
	if len(head) < len(magic) {
		return false
	}
	for i := range magic {
		if magic[i] != '.' && magic[i] != head[i] {
			return false
		}
	}
	return true
}
