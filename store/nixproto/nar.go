package nixproto

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/voidnxlab/nixtrap/narinfo"
)

// NARFromPath opens the NAR of a valid path, which the daemon packs while it is read.
//
// The reader finds the archive's end by its framing and checks no more than that:
// the caller compares size and hash with [PathInfo], and bounds what it reads.
// Until the reader is closed, the connection is busy and the end of ctx closes it.
// Read to its end, the reader leaves the connection usable; closed earlier, it closes the connection.
// It is not safe for concurrent use.
func (c *Client) NARFromPath(ctx context.Context, path narinfo.StorePath) (io.ReadCloser, error) {
	if err := c.mustBeValid(ctx, path); err != nil {
		return nil, err
	}
	err := c.while(ctx, opNARFromPath.String(), func() error { return c.request(opNARFromPath, onePath(path)) })
	if err != nil {
		return nil, err
	}
	return c.openNAR(ctx, opNARFromPath.String(), true)
}

// openNAR reads the archive that comes next. inlineErrors says that an error may come in its place.
func (c *link) openNAR(ctx context.Context, doing string, inlineErrors bool) (io.ReadCloser, error) {
	release, err := c.hold(ctx)
	if err != nil {
		c.fail(err)
		return nil, fmt.Errorf("nixproto: %s: %w", doing, err)
	}
	c.reading = true
	r := &narReader{link: c, doing: doing, release: release}
	r.narScanner = narScanner{d: c.dec, inlineErrors: inlineErrors, onEnd: r.end}
	return r, nil
}

const (
	framingBlock = 4096 // bytes of framing that are gathered before they are handed out

	maxNARName   = 255
	maxNARTarget = 4095
	maxNARDepth  = 64
	maxNARTag    = uint64(len("nix-archive-1"))
)

// narReader is a [narScanner] on a client's connection.
type narReader struct {
	narScanner
	link    *link
	doing   string
	release func() error // of the client's hold
}

// Close gives the connection back, or ends it where the archive has not been read to its end.
func (r *narReader) Close() error {
	if r.err == nil {
		r.finish(errors.New("NAR closed before its end"))
	}
	r.framing, r.content, r.err = nil, 0, fmt.Errorf("nixproto: NAR is %w", ErrClosed)
	return nil
}

// end lets the connection go, and returns what the reader is to say.
func (r *narReader) end(err error) error {
	cause := r.release()
	r.link.reading = false
	if cause != nil {
		r.link.fail(cause)
	}
	if errors.Is(err, io.EOF) {
		return err
	}
	if cause != nil {
		err = cause
	}
	r.link.fail(err)
	return fmt.Errorf("nixproto: %s: %w", r.doing, err)
}

// narScanner yields an archive as it arrives. It reads nothing beyond its last token.
type narScanner struct {
	d            *decoder
	inlineErrors bool              // an error message may stand in a token's place
	onEnd        func(error) error // is told once why there is no more, io.EOF after a whole archive; nil is allowed
	expect       narState
	depth        int
	framing      []byte // read and not yet handed out
	content      uint64 // bytes of a file's content, with padding, that come next
	err          error  // sticks
}

func (r *narScanner) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.framing) == 0 && r.content == 0 {
		r.gather()
	}
	if len(r.framing) > 0 {
		n := copy(p, r.framing)
		r.framing = r.framing[n:]
		return n, nil
	}
	if r.err != nil {
		return 0, r.err
	}
	return r.readContent(p)
}

func (r *narScanner) readContent(p []byte) (int, error) {
	n, err := r.d.r.Read(p[:min(uint64(len(p)), r.content)])
	r.content -= uint64(n)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	r.finish(err)
	return n, r.err
}

// gather reads tokens up to a file's content or the archive's end, or until there are enough of them.
func (r *narScanner) gather() {
	r.framing = r.framing[:0]
	for r.err == nil && r.content == 0 && len(r.framing) < framingBlock {
		if r.expect == atEnd {
			r.finish(io.EOF)
			return
		}
		if err := r.token(); err != nil {
			r.finish(err)
		}
	}
}

func (r *narScanner) token() error {
	d := r.d
	d.limit(maxMessage)
	n := d.uint64()
	var text string
	switch {
	case d.err != nil:
		return d.err
	case r.expect == atContents:
		if n > math.MaxInt64-wordSize {
			d.fail("file of %d bytes", n)
			return d.err
		}
		r.content = n + padding(n)
		r.expect = atClose
		r.framing = binary.LittleEndian.AppendUint64(r.framing, n)
		return nil
	case n == msgError && r.inlineErrors:
		// A daemon that cannot pack says so in the archive's place.
		return decodeError(d)
	default:
		text = d.text(n, r.expect.longest())
	}
	if d.err == nil {
		r.advance(text)
	}
	r.framing = binary.LittleEndian.AppendUint64(r.framing, n)
	r.framing = append(r.framing, text...)
	r.framing = append(r.framing, make([]byte, padding(n))...)
	return d.err
}

func (r *narScanner) advance(token string) {
	next, ok := narGrammar[narStep{r.expect, token}]
	switch {
	case r.expect == atName:
		next = atNode
	case r.expect == atTarget:
		next = atClose
	case !ok:
		r.d.fail("NAR has %q out of place", token)
	case next == atOpen && r.expect == atNode:
		r.depth++
		if r.depth > maxNARDepth {
			r.d.fail("NAR is deeper than %d", maxNARDepth)
		}
	case next == atEntryClose && r.depth == 0:
		next = atEnd
	case next == atEntryClose:
		r.depth--
	}
	r.expect = next
}

// finish records why there is no more, io.EOF after a whole archive.
func (r *narScanner) finish(err error) {
	if r.onEnd != nil {
		err = r.onEnd(err)
	}
	r.err = err
}

// narState is the place of the next token in the grammar.
type narState uint8

const (
	atMagic narState = iota
	atOpen
	atTypeKey
	atType
	inRegular
	atExecutable
	afterExecutable
	atContents
	atTargetKey
	atTarget
	inDirectory
	atEntryOpen
	atNameKey
	atName
	atNode
	atClose
	atEntryClose // after a node's end; the archive's end where the node is the root
	atEnd
)

// longest returns the limit of a token's length.
func (s narState) longest() uint64 {
	switch s {
	case atName:
		return maxNARName
	case atTarget:
		return maxNARTarget
	}
	return maxNARTag
}

type narStep struct {
	at    narState
	token string
}

// narGrammar tells what follows a fixed token.
var narGrammar = map[narStep]narState{
	{atMagic, "nix-archive-1"}:    atOpen,
	{atOpen, "("}:                 atTypeKey,
	{atTypeKey, "type"}:           atType,
	{atType, "regular"}:           inRegular,
	{inRegular, "executable"}:     atExecutable,
	{atExecutable, ""}:            afterExecutable,
	{inRegular, "contents"}:       atContents,
	{afterExecutable, "contents"}: atContents,
	{inRegular, ")"}:              atEntryClose,
	{afterExecutable, ")"}:        atEntryClose,
	{atType, "symlink"}:           atTargetKey,
	{atTargetKey, "target"}:       atTarget,
	{atClose, ")"}:                atEntryClose,
	{atType, "directory"}:         inDirectory,
	{inDirectory, "entry"}:        atEntryOpen,
	{atEntryOpen, "("}:            atNameKey,
	{atNameKey, "name"}:           atName,
	{atNode, "node"}:              atOpen,
	{atEntryClose, ")"}:           inDirectory,
	{inDirectory, ")"}:            atEntryClose,
}
