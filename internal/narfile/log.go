package narfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
)

// MaxLog is the most bytes that a compressed build log decodes to. One without compression has as many as its source.
const MaxLog = 256 << 20

// logReader reads a build log, decoded.
type logReader struct {
	src, dec io.Closer
	r        judgedReader
	left     int64
}

// OpenLog returns the log in src. Nix stores the text itself, and other tools store it compressed under the same name, so
// the compression is told from the content. It takes src over: closing the log closes it, and so does a failure. An error
// of src is returned as it is; data that do not decode are a [Damage]. Nothing proves a log. The reader is not safe for
// concurrent use.
func OpenLog(src io.ReadCloser) (io.ReadCloser, error) {
	watched := &watched{r: src}
	buffered := bufio.NewReader(watched)
	head, err := buffered.Peek(magicSize)
	if err != nil && !isEnd(err) {
		return nil, errors.Join(err, src.Close())
	}
	l := &logReader{src: src, left: MaxLog}
	compression := Detect(head)
	if compression == "none" {
		l.left = math.MaxInt64
	}
	dec, err := NewDecoder(compression, buffered)
	if err != nil {
		return nil, errors.Join(watched.judge(err), src.Close())
	}
	l.dec, l.r = dec, judgedReader{dec, watched}
	return l, nil
}

// Read implements io.Reader.
func (l *logReader) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, fmt.Errorf("narfile: a log of more than %d bytes", MaxLog)
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}

// Close implements io.Closer.
func (l *logReader) Close() error { return errors.Join(l.dec.Close(), l.src.Close()) }
