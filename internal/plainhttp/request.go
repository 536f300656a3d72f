package plainhttp

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

const maxHeaders = 32

// parseRequest reads the request that b begins with, and how long it is.
// It returns nil for one that does not end in b, and for one that is not of the plain kind.
func parseRequest(b []byte) (r *http.Request, size int) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return nil, 0
	}
	lines := string(b[:end])
	line, rest, _ := strings.Cut(lines, "\r\n")
	r = parseLine(line)
	if r == nil || !parseHeader(r, rest) {
		return nil, 0
	}
	return r, end + 4
}

func parseLine(line string) *http.Request {
	method, rest, _ := strings.Cut(line, " ")
	target, version, ok := strings.Cut(rest, " ")
	if !ok || (method != http.MethodGet && method != http.MethodHead) || version != "HTTP/1.1" ||
		!strings.HasPrefix(target, "/") || !isVisible(target) {
		return nil
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil
	}
	return &http.Request{Method: method, URL: u, RequestURI: target, Proto: version, ProtoMajor: 1, ProtoMinor: 1,
		Body: http.NoBody}
}

// isVisible reports whether s is of printable ASCII characters without the space.
func isVisible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// parseHeader reads header lines into r, and reports false for what is not plain.
func parseHeader(r *http.Request, lines string) bool {
	n := 1 + strings.Count(lines, "\n")
	if n > maxHeaders {
		return false
	}
	r.Header = make(http.Header, n)
	values := make([]string, n) // one array for all
	hosts := 0
	for line := range strings.SplitSeq(lines, "\r\n") {
		name, value, ok := strings.Cut(line, ":")
		if !ok || !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		value = strings.Trim(value, " \t")
		if !httpguts.ValidHeaderFieldValue(value) {
			return false
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case name == "Host":
			hosts++
			r.Host = value
			continue
		case !isPlain(name, value):
			return false
		}
		values[0] = value
		if r.Header[name] == nil {
			r.Header[name] = values[:1:1]
		} else {
			r.Header[name] = append(r.Header[name], value)
		}
		values = values[1:]
	}
	return hosts == 1 && httpguts.ValidHostHeader(r.Host)
}

// isPlain reports whether a header field asks for nothing that only net/http does.
func isPlain(name, value string) bool {
	switch name {
	case "Connection":
		return strings.EqualFold(value, "keep-alive") || strings.EqualFold(value, "close")
	case "Content-Length", "Transfer-Encoding", "Trailer", "Te", "Expect", "Upgrade", "Proxy-Connection", "Keep-Alive",
		"Pragma":
		return false
	}
	return true
}

func wantsClose(h http.Header) bool {
	for _, v := range h["Connection"] {
		if strings.EqualFold(v, "close") {
			return true
		}
	}
	return false
}
