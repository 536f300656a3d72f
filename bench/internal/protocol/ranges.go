package protocol

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
)

var rangeChecks = []check{
	{"ranges are where Accept-Ranges promises them", checkAcceptRanges},
	{"a range is 206 and a part of the whole", checkRanges},
	{"a range behind the end is 416", checkUnsatisfiable},
	{"what is no range is answered, never a fault", checkAbsurdRanges},
	{"If-Range with another ETag gives the whole", checkIfRange},
	{"If-None-Match with the ETag is 304", checkConditional},
	{"HEAD is GET without a body", checkHead},
}

const offersRanges = "bytes"

// ranged is archive, or a skip where the server has no ranges for archives.
func (s *session) ranged(ctx context.Context) (*item, *answer, error) {
	i, whole, err := s.archive(ctx)
	if err == nil && whole.Field("Accept-Ranges") != offersRanges {
		err = skip("archives have no Accept-Ranges, so Nix cannot resume")
	}
	return i, whole, err
}

// checkAcceptRanges: Nix gives up for good if it was promised ranges and then gets 200.
func checkAcceptRanges(ctx context.Context, s *session) error {
	i := s.items[0]
	listing := "/" + string(i.path.HashPart()) + ".ls"
	for _, url := range []string{"/nix-cache-info", narinfoURL(i.path), i.narURL(), listing} {
		whole, err := s.get(ctx, url)
		if err != nil {
			return err
		}
		if whole.Status != 200 || whole.Field("Accept-Ranges") != offersRanges || len(whole.body) < 2 {
			continue
		}
		if _, err := s.want(ctx, 206, url, "Range: bytes=1-"); err != nil {
			return fmt.Errorf("Accept-Ranges, but %w", err)
		}
	}
	return nil
}

// rangeSpecs are ranges within size bytes: the edges, and some at random, the same each time.
func rangeSpecs(size int64) [][2]int64 {
	specs := [][2]int64{{0, 0}, {0, size - 1}, {size - 1, size - 1}, {size / 2, size - 1}, {0, size / 2}}
	random := rand.New(rand.NewPCG(1, uint64(size)))
	for range 60 {
		from := random.Int64N(size)
		specs = append(specs, [2]int64{from, from + random.Int64N(min(size-from, 1<<20))})
	}
	return specs
}

func checkRanges(ctx context.Context, s *session) error {
	i, whole, err := s.ranged(ctx)
	if err != nil {
		return err
	}
	size := int64(len(whole.body))
	for _, r := range rangeSpecs(size) {
		if err := s.compareRange(ctx, i, whole, fmt.Sprintf("bytes=%d-%d", r[0], r[1]), r[0], r[1]); err != nil {
			return err
		}
	}
	for _, r := range []struct {
		spec     string
		from, to int64
	}{
		{fmt.Sprintf("bytes=%d-", size/3), size / 3, size - 1},
		{"bytes=0-", 0, size - 1},
		{"bytes=-7", max(0, size-7), size - 1},
		{fmt.Sprintf("bytes=-%d", size*2), 0, size - 1},
		{fmt.Sprintf("bytes=1-%d", size*2), 1, size - 1},
	} {
		if err := s.compareRange(ctx, i, whole, r.spec, r.from, r.to); err != nil {
			return err
		}
	}
	return nil
}

// compareRange asks for a range and compares it with bytes from to to of the whole.
func (s *session) compareRange(ctx context.Context, i *item, whole *answer, spec string, from, to int64) error {
	a, err := s.want(ctx, 206, i.narURL(), "Range: "+spec)
	if err != nil {
		return err
	}
	want := fmt.Sprintf("bytes %d-%d/%d", from, to, len(whole.body))
	got := a.Field("Content-Range")
	unknown := strings.HasSuffix(got, "/*") && strings.HasPrefix(want, got[:len(got)-1]) // Nix takes that too
	switch {
	case got != want && !unknown:
		return fmt.Errorf("%s: Content-Range %q, not %q", spec, got, want)
	case !bytes.Equal(a.body, whole.body[from:to+1]):
		return fmt.Errorf("%s: not the bytes of the whole", spec)
	case a.Field("Content-Encoding") != "":
		return fmt.Errorf("%s: Content-Encoding %q", spec, a.Field("Content-Encoding"))
	case a.Field("ETag") != whole.Field("ETag"):
		return fmt.Errorf("%s: ETag %q, of the whole %q", spec, a.Field("ETag"), whole.Field("ETag"))
	}
	return nil
}

func checkUnsatisfiable(ctx context.Context, s *session) error {
	i, whole, err := s.ranged(ctx)
	if err != nil {
		return err
	}
	size := len(whole.body)
	for _, from := range []string{fmt.Sprint(size), fmt.Sprint(size + 1), "99999999999999999999999"} {
		a, err := s.want(ctx, 416, i.narURL(), "Range: bytes="+from+"-")
		if err != nil {
			return err
		}
		if got, want := a.Field("Content-Range"), fmt.Sprintf("bytes */%d", size); got != want {
			return fmt.Errorf("416 with Content-Range %q, not %q", got, want)
		}
	}
	return nil
}

func checkAbsurdRanges(ctx context.Context, s *session) error {
	i, whole, err := s.archive(ctx)
	if err != nil {
		return err
	}
	for _, spec := range []string{
		"bytes=", "bytes=-", "bytes=5-2", "bytes=a-b", "bytes=-0", "bytes=--1", "bytes=0x1-2", "items=0-1", "0-1",
		"bytes=1-2,4-5", "bytes=0-,0-,0-,0-", "bytes=-99999999999999999999999", "bytes=1-99999999999999999999999",
		strings.Repeat("bytes=0-0,", 200),
	} {
		a, err := s.get(ctx, i.narURL(), "Range: "+spec)
		if err != nil {
			return fmt.Errorf("Range %.40q: %w", spec, err)
		}
		if a.Status == 200 && !bytes.Equal(a.body, whole.body) {
			return fmt.Errorf("Range %.40q: 200, but not the whole", spec)
		}
		if a.Status != 200 && a.Status != 206 && (a.Status < 400 || a.Status > 499) {
			return fmt.Errorf("Range %.40q: status %d", spec, a.Status)
		}
	}
	return nil
}

func checkIfRange(ctx context.Context, s *session) error {
	i, whole, err := s.ranged(ctx)
	if err != nil {
		return err
	}
	etag := whole.Field("ETag")
	if etag == "" {
		return skip("archives have no ETag")
	}
	if !strings.HasPrefix(etag, "W/") { // a weak one never matches
		if _, err := s.want(ctx, 206, i.narURL(), "Range: bytes=1-", "If-Range: "+etag); err != nil {
			return err
		}
	}
	a, err := s.want(ctx, 200, i.narURL(), "Range: bytes=1-", `If-Range: "another"`)
	if err != nil {
		return err
	}
	if !bytes.Equal(a.body, whole.body) {
		return fmt.Errorf("%s with another If-Range: not the whole", i.narURL())
	}
	return nil
}

func checkConditional(ctx context.Context, s *session) error {
	i := s.items[0]
	tried := 0
	for _, url := range []string{"/nix-cache-info", narinfoURL(i.path), i.narURL()} {
		whole, err := s.want(ctx, 200, url)
		if err != nil {
			return err
		}
		etag := whole.Field("ETag")
		if etag == "" {
			continue
		}
		tried++
		a, err := s.want(ctx, 304, url, "If-None-Match: "+etag)
		if err != nil {
			return err
		}
		if got := a.Field("ETag"); got != etag {
			return fmt.Errorf("%s: 304 with ETag %q, not %q", url, got, etag)
		}
		if a, err = s.want(ctx, 200, url, `If-None-Match: "another"`); err != nil {
			return err
		}
		if !bytes.Equal(a.body, whole.body) {
			return fmt.Errorf("%s with another If-None-Match: not the whole", url)
		}
	}
	if tried == 0 {
		return skip("nothing has an ETag")
	}
	return nil
}

// sameFields are what a HEAD must say as GET does.
var sameFields = []string{"Content-Length", "Content-Type", "ETag", "Accept-Ranges", "Cache-Control", "Content-Encoding"}

// checkHead sends each HEAD twice: a body that came along would be taken for the second one's answer.
func checkHead(ctx context.Context, s *session) error {
	i := s.items[0]
	listing := "/" + string(i.path.HashPart()) + ".ls"
	for _, url := range []string{
		"/nix-cache-info", narinfoURL(i.path), i.narURL(), listing, "/" + absentPart + ".narinfo",
	} {
		whole, err := s.get(ctx, url)
		if err != nil {
			return err
		}
		for range 2 {
			a, err := s.do(ctx, "HEAD", url)
			if err != nil {
				return fmt.Errorf("%w (a body with HEAD?)", err)
			}
			if a.Status != whole.Status {
				return fmt.Errorf("HEAD %s: status %d, of GET %d", url, a.Status, whole.Status)
			}
			for _, name := range sameFields {
				got, want := a.Field(name), whole.Field(name)
				if got != want && (name != "Content-Length" || got != "") { // it may be left out
					return fmt.Errorf("HEAD %s: %s %q, of GET %q", url, name, got, want)
				}
			}
		}
	}
	return nil
}
