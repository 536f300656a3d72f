package httpcache

import (
	"fmt"
	"math"
	"net/http"
	"strings"
)

// span is a run of bytes of a body of known size.
type span struct{ offset, length int64 }

// contentRange is a Content-Range's value; a size of -1 is one that nobody knows yet.
func (s span) contentRange(size int64) string {
	if size < 0 {
		return fmt.Sprintf("bytes %d-%d/*", s.offset, s.offset+s.length-1)
	}
	return fmt.Sprintf("bytes %d-%d/%d", s.offset, s.offset+s.length-1, size)
}

// rangeResult says what a Range header asks for.
type rangeResult uint8

const (
	rangeWhole rangeResult = iota // the whole body: no range, several, one that is no range at all, or a stale one
	rangePart
	rangeUnsatisfiable
)

// requestedRange decides what part of a body of the given size and strong ETag a request is for.
// Ranges are defined for GET alone. Several in one request may be answered whole, and are.
func requestedRange(r *http.Request, size int64, etag string) (span, rangeResult) {
	whole := span{0, size}
	value := r.Header.Get("Range")
	if value == "" || r.Method != http.MethodGet || size <= 0 {
		return whole, rangeWhole
	}
	if condition := r.Header.Get("If-Range"); condition != "" && (etag == "" || strings.TrimSpace(condition) != etag) {
		return whole, rangeWhole
	}
	s, result := parseRange(value, size)
	if result != rangePart {
		s = whole
	}
	return s, result
}

// parseRange reads "bytes=FIRST-LAST", "bytes=FIRST-" or "bytes=-COUNT" against a size above 0.
// What is not of that form is no range (RFC 9110, 14.2: to be ignored).
func parseRange(value string, size int64) (span, rangeResult) {
	unit, spec, ok := strings.Cut(value, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return span{}, rangeWhole
	}
	first, last, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok {
		return span{}, rangeWhole
	}
	first, last = strings.TrimSpace(first), strings.TrimSpace(last)
	if first == "" {
		return suffixRange(last, size)
	}
	begin, ok := parsePosition(first)
	if !ok {
		return span{}, rangeWhole
	}
	end := int64(math.MaxInt64)
	if last != "" {
		if end, ok = parsePosition(last); !ok || end < begin {
			return span{}, rangeWhole
		}
	}
	if begin >= size {
		return span{}, rangeUnsatisfiable
	}
	return span{begin, min(end, size-1) - begin + 1}, rangePart
}

func suffixRange(count string, size int64) (span, rangeResult) {
	n, ok := parsePosition(count)
	if !ok {
		return span{}, rangeWhole
	}
	if n == 0 {
		return span{}, rangeUnsatisfiable
	}
	n = min(n, size)
	return span{size - n, n}, rangePart
}

// parsePosition reads decimal digits; a number beyond int64 is as good as the largest.
func parsePosition(s string) (n int64, ok bool) {
	for i := range len(s) {
		d := s[i] - '0'
		if d > 9 {
			return 0, false
		}
		if n > (math.MaxInt64-int64(d))/10 {
			n = math.MaxInt64
			continue
		}
		n = n*10 + int64(d)
	}
	return n, s != ""
}

// noneMatch reports whether If-None-Match holds the ETag, compared weakly as RFC 9110 wants.
func noneMatch(r *http.Request, etag string) bool {
	if etag == "" {
		return false
	}
	for _, value := range r.Header.Values("If-None-Match") {
		for candidate := range strings.SplitSeq(value, ",") {
			candidate = strings.TrimSpace(candidate)
			if candidate == "*" || strings.TrimPrefix(candidate, "W/") == etag {
				return true
			}
		}
	}
	return false
}
