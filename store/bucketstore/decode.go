package bucketstore

import (
	"io"

	"github.com/voidnxlab/nixtrap/internal/narfile"
)

// newDecoder is shared with the stores that read other caches.
func newDecoder(compression string, r io.Reader) (io.ReadCloser, error) {
	return narfile.NewDecoder(compression, r)
}

// magicSize is how many bytes detect wants to see.
const magicSize = narfile.MagicSize

func detect(head []byte) string { return narfile.Detect(head) }
