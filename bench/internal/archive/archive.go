// Package archive decodes the compressions of binary caches, so that what a server sends can be checked.
package archive

import (
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// ErrUnknown is in the errors about compressions that are not decoded here.
var ErrUnknown = errors.New("not decoded here")

// Decode returns the decoded form of what r yields. compression is a narinfo's.
func Decode(r io.Reader, compression string) (io.Reader, error) {
	switch compression {
	case "none":
		return r, nil
	case "zstd":
		// One goroutine at a time: nothing is left behind where nobody reads to the end.
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	case "xz":
		return xz.NewReader(r, 0)
	case "gzip":
		return gzip.NewReader(r)
	case "bzip2", "":
		return bzip2.NewReader(r), nil
	}
	return nil, fmt.Errorf("archive: compression %q: %w", compression, ErrUnknown)
}
