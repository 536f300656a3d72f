// Package rawhttp is an HTTP/1.1 client that costs next to nothing, for a benchmark that shares its machine with the
// servers it measures.
//
// A [Conn] is one keep-alive connection: [Conn.Get], then the body by [Conn.Read] or [Conn.Discard], then the next
// Get. It reads bodies with a Content-Length, in chunks, or up to the connection's end, and checks
// their length: a body that is cut is an error. It follows no redirects, negotiates nothing, pools nothing, and keeps of
// a header only what it needs. It is meant for servers that one has started oneself: it bounds a header at
// the buffer's size, but sets no timeouts of its own.
package rawhttp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// BufferSize is the size of a connection's buffer: what one read takes at most.
const BufferSize = 256 << 10

// Conn is a connection to a server. It is not safe for concurrent use.
type Conn struct {
	addr string
	host string
	conn net.Conn // nil until the first request, and after the server said that it closes
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Dials counts the connections that were made: more than one if a server closes them.
	Dials int

	buf        []byte
	start, end int // what is read but not used is buf[start:end]
	request    []byte
	body       body
}

// body says what remains of the answer under way.
type body struct {
	kind   kind
	left   int64 // of the body, or of the chunk
	close  bool  // the connection ends with it
	opened bool  // chunked: a chunk was read, whose line end is still to come
}

type kind uint8

const (
	none    kind = iota // there is no more
	counted             // left bytes
	chunked
	toTheEnd // of the connection
)

// Response is an answer's header, as much of it as matters.
type Response struct {
	Status int
	Length int64 // Content-Length; -1: none was sent
	// Unframed is whether the body ends with the connection, so that nobody sees it when it is cut.
	Unframed bool
	// Header is the header's text without the status line, valid until the next Read, Discard or Get.
	Header []byte
}

// New makes a Conn; it dials at the first request. host is what the Host header says, addr is HOST:PORT.
func New(addr, host string) *Conn {
	return &Conn{addr: addr, host: host, buf: make([]byte, BufferSize), dial: new(net.Dialer).DialContext}
}

// NewTLS is New over TLS, with the host's name, without a port, as the certificate must have it.
func NewTLS(addr, host string) *Conn {
	c := New(addr, host)
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	c.dial = (&tls.Dialer{Config: &tls.Config{ServerName: name, NextProtos: []string{"http/1.1"}}}).DialContext
	return c
}

// Close closes the connection, if there is one.
func (c *Conn) Close() error {
	if c.conn == nil {
		return nil
	}
	conn := c.conn
	c.conn, c.start, c.end, c.body = nil, 0, 0, body{}
	return conn.Close()
}

// SetDeadline bounds all that comes until it is set again. The connection must have been dialled.
func (c *Conn) SetDeadline(t time.Time) error {
	if c.conn == nil {
		return errors.New("rawhttp: not connected")
	}
	return c.conn.SetDeadline(t)
}

// Dial connects, if that is not done. Get does it as needed.
func (c *Conn) Dial(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	conn, err := c.dial(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	c.conn = conn
	c.Dials++
	return nil
}

// Get asks for a path and reads the answer's header. What is left of the last answer's body is read and dropped.
// headers are whole lines without their ends.
func (c *Conn) Get(ctx context.Context, path string, headers ...string) (Response, error) {
	return c.Do(ctx, "GET", path, headers...)
}

// Head is Get without a body.
func (c *Conn) Head(ctx context.Context, path string, headers ...string) (Response, error) {
	return c.Do(ctx, "HEAD", path, headers...)
}

// Do is Get with another method, and no body of the request's.
func (c *Conn) Do(ctx context.Context, method, path string, headers ...string) (Response, error) {
	if _, err := c.Discard(); err != nil {
		return Response{}, err
	}
	if err := c.Dial(ctx); err != nil {
		return Response{}, err
	}
	c.request = append(c.request[:0], method...)
	c.request = append(c.request, ' ')
	c.request = append(c.request, path...)
	c.request = append(c.request, " HTTP/1.1\r\nHost: "...)
	c.request = append(c.request, c.host...)
	for _, h := range headers {
		c.request = append(append(c.request, "\r\n"...), h...)
	}
	c.request = append(c.request, "\r\n\r\n"...)
	if _, err := c.conn.Write(c.request); err != nil {
		return Response{}, err
	}
	return c.readHeader(method == "HEAD")
}

func (c *Conn) readHeader(head bool) (Response, error) {
	for {
		text, err := c.until("\r\n\r\n")
		if err != nil {
			return Response{}, fmt.Errorf("rawhttp: header: %w", noEOF(err))
		}
		r, b, err := parseHeader(text)
		if err != nil {
			return Response{}, err
		}
		if r.Status >= 100 && r.Status < 200 {
			continue // an interim answer
		}
		if head || r.Status == 204 || r.Status == 304 {
			b.kind = none
		}
		r.Unframed = b.kind == toTheEnd
		c.body = b
		return r, c.ended()
	}
}

// until returns what comes up to and with a mark, and steps over it.
func (c *Conn) until(mark string) ([]byte, error) {
	searched := 0
	for {
		have := c.buf[c.start:c.end]
		if i := bytes.Index(have[searched:], []byte(mark)); i >= 0 {
			end := searched + i + len(mark)
			c.start += end
			return have[:end], nil
		}
		searched = max(0, len(have)-len(mark)+1)
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads more behind what there is.
func (c *Conn) fill() error {
	if c.start > 0 {
		c.end = copy(c.buf, c.buf[c.start:c.end])
		c.start = 0
	}
	if c.end == len(c.buf) {
		return errors.New("a line without end")
	}
	n, err := c.conn.Read(c.buf[c.end:])
	c.end += n
	if n > 0 {
		return nil
	}
	return err
}

// parseHeader reads a status line and the header's fields.
func parseHeader(text []byte) (Response, body, error) {
	line, fields, _ := bytes.Cut(text, []byte("\r\n"))
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || (len(line) > 12 && line[12] != ' ') {
		return Response{}, body{}, fmt.Errorf("rawhttp: status line %.60q", line)
	}
	status, err := strconv.ParseUint(string(line[9:12]), 10, 16)
	if err != nil || status < 100 {
		return Response{}, body{}, fmt.Errorf("rawhttp: status line %.60q", line)
	}
	r := Response{Status: int(status), Length: -1, Header: fields}
	b := body{kind: toTheEnd, close: line[7] == '0'}
	for rest := fields; len(rest) > 2; {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		if err := parseField(line, &r, &b); err != nil {
			return Response{}, body{}, err
		}
	}
	if b.kind == chunked {
		r.Length = -1
	} else if r.Length >= 0 {
		b.kind, b.left = counted, r.Length
	}
	return r, b, nil
}

func parseField(line []byte, r *Response, b *body) error {
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || len(name) == 0 {
		return fmt.Errorf("rawhttp: header line %.60q", line)
	}
	value = bytes.TrimSpace(value)
	switch len(name) { // most names need no comparison
	case len("Content-Length"):
		if !equalFold(name, "Content-Length") {
			return nil
		}
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil || n < 0 || (r.Length >= 0 && r.Length != n) {
			return fmt.Errorf("rawhttp: content length %.60q", value)
		}
		r.Length = n
	case len("Transfer-Encoding"):
		if !equalFold(name, "Transfer-Encoding") {
			return nil
		}
		if !equalFold(value, "chunked") {
			return fmt.Errorf("rawhttp: transfer encoding %.60q", value)
		}
		b.kind = chunked
	case len("Connection"):
		if equalFold(name, "Connection") {
			b.close = equalFold(value, "close") || (b.close && !equalFold(value, "keep-alive"))
		}
	}
	return nil
}

func equalFold(b []byte, s string) bool { return bytes.EqualFold(b, []byte(s)) }

// Field returns the value of a header field, "" if there is none.
func (r Response) Field(name string) string {
	for line := range bytes.Lines(r.Header) {
		if n, value, ok := bytes.Cut(line, []byte(":")); ok && equalFold(n, name) {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

// Read reads the body. io.EOF is its true end; one that is cut is io.ErrUnexpectedEOF.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if err := c.openChunk(); err != nil {
			return 0, err
		}
		if c.body.kind == none {
			return 0, io.EOF
		}
		n, err := c.readSome(p)
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// readSome reads from the buffer if it has anything, else straight from the connection.
func (c *Conn) readSome(p []byte) (int, error) {
	if c.body.kind != toTheEnd {
		p = p[:min(int64(len(p)), c.body.left)]
	}
	n, err := 0, error(nil)
	if c.start < c.end {
		n = copy(p, c.buf[c.start:c.end])
		c.start += n
	} else {
		n, err = c.conn.Read(p)
	}
	return n, c.took(n, err)
}

// Discard reads the rest of the body and returns its length.
func (c *Conn) Discard() (int64, error) {
	var total int64
	for {
		if err := c.openChunk(); err != nil {
			return total, err
		}
		if c.body.kind == none {
			return total, nil
		}
		n := c.end - c.start
		var err error
		if n == 0 {
			// Never past the body: what comes behind it would have to be kept.
			room := c.buf
			if c.body.kind == counted {
				room = room[:min(int64(len(room)), c.body.left)]
			}
			c.start, c.end = 0, 0
			n, err = c.conn.Read(room)
			c.end = n
		}
		if c.body.kind != toTheEnd {
			n = int(min(int64(n), c.body.left))
		}
		c.start += n
		total += int64(n)
		if err := c.took(n, err); err != nil {
			return total, err
		}
	}
}

// took accounts for n bytes of the body, after which the connection said err.
func (c *Conn) took(n int, err error) error {
	switch {
	case c.body.kind == toTheEnd:
		if errors.Is(err, io.EOF) {
			c.body.kind = none
			return c.ended()
		}
		return err
	case n == 0 && err != nil:
		return fmt.Errorf("rawhttp: body: %w", noEOF(err))
	}
	c.body.left -= int64(n)
	return c.ended()
}

// ended settles what happens behind a body, if this is its end.
func (c *Conn) ended() error {
	if c.body.kind == counted && c.body.left == 0 {
		c.body.kind = none
	}
	if c.body.kind == none && c.body.close {
		return c.Close()
	}
	return nil
}

// openChunk reads the line before a chunk where one is due, and what follows the last.
func (c *Conn) openChunk() error {
	if c.body.kind != chunked || c.body.left > 0 {
		return nil
	}
	if c.body.opened {
		if end, err := c.until("\r\n"); err != nil || len(end) != 2 {
			return fmt.Errorf("rawhttp: end of a chunk: %w", cmpErr(noEOF(err), errors.New("other bytes")))
		}
	}
	line, err := c.until("\r\n")
	if err != nil {
		return fmt.Errorf("rawhttp: chunk: %w", noEOF(err))
	}
	digits, _, _ := bytes.Cut(line[:len(line)-2], []byte(";"))
	n, err := strconv.ParseUint(string(bytes.TrimSpace(digits)), 16, 62)
	if err != nil {
		return fmt.Errorf("rawhttp: chunk %.60q", line)
	}
	c.body.left, c.body.opened = int64(n), true
	if n > 0 {
		return nil
	}
	for len(line) != 2 { // trailers, up to an empty line
		if line, err = c.until("\r\n"); err != nil {
			return fmt.Errorf("rawhttp: trailer: %w", noEOF(err))
		}
	}
	c.body.kind = none
	return c.ended()
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
