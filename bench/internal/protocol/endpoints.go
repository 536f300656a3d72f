package protocol

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"regexp"
	"strings"

	"github.com/voidnxlab/nixtrap/bench/internal/archive"
	"github.com/voidnxlab/nixtrap/nar"
)

var endpointChecks = []check{
	{"listings are the archives' tables of contents", checkListing},
	{"logs of the paths' derivations", checkLog},
	{"realisations", checkRealisation},
	{"debug info names an archive of the cache", checkDebugInfo},
	{"files out of paths", checkServe},
	{"malformed requests are 4xx", checkMalformed},
	{"other methods than GET and HEAD are 4xx", checkMethods},
}

// layout reads an item's archive and makes its table of contents.
func (s *session) layout(ctx context.Context, i *item) (*nar.Layout, []byte, error) {
	a, err := s.want(ctx, 200, i.narURL())
	if err != nil {
		return nil, nil, err
	}
	decoder, err := archive.Decode(bytes.NewReader(a.body), i.info.Compression)
	if err != nil {
		return nil, nil, skip("%s", err)
	}
	text, err := io.ReadAll(io.LimitReader(decoder, maxBody))
	if err != nil {
		return nil, nil, err
	}
	l, err := nar.ReadLayout(bytes.NewReader(text))
	return l, text, err
}

// small yields the items whose archives are looked into.
func (s *session) small() []*item {
	var some []*item
	for i := range s.items {
		if it := &s.items[i]; it.info.NarSize <= maxBody/8 {
			some = append(some, it)
		}
	}
	return some
}

func checkListing(ctx context.Context, s *session) error {
	compared := 0
	for _, i := range s.small() {
		url := "/" + string(i.path.HashPart()) + ".ls"
		a, err := s.optional(ctx, url)
		if err != nil {
			return err
		}
		l, _, err := s.layout(ctx, i)
		if err != nil {
			return err
		}
		want, err := l.AppendListing(nil)
		if err != nil {
			continue // names that JSON cannot have
		}
		if err := sameJSON(a.body, want); err != nil {
			return fmt.Errorf("%s: %w", url, err)
		}
		compared++
	}
	if compared == 0 {
		return skip("every path is too large")
	}
	return nil
}

func sameJSON(got, want []byte) error {
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		return err
	}
	if err := json.Unmarshal(want, &w); err != nil {
		return err
	}
	if !reflect.DeepEqual(g, w) {
		return fmt.Errorf("it says %.200s, not %.200s", got, want)
	}
	return nil
}

func checkLog(ctx context.Context, s *session) error {
	asked := false
	for _, i := range s.items {
		if i.info.Deriver == "" {
			continue
		}
		asked = true
		a, err := s.get(ctx, "/log/"+i.info.Deriver.Base())
		if err != nil {
			return err
		}
		switch {
		case a.Status == 404:
			continue // it may have none of this one
		case a.Status != 200:
			return fmt.Errorf("/log/%s: status %d", i.info.Deriver.Base(), a.Status)
		case bytes.HasPrefix(a.body, []byte("BZh")):
			return fmt.Errorf("/log/%s: not decoded", i.info.Deriver.Base())
		}
		return nil
	}
	if !asked {
		return skip("no path has a deriver")
	}
	return absent("no log of any path")
}

// checkRealisation knows no id that must be there: it sees that ids are understood.
func checkRealisation(ctx context.Context, s *session) error {
	id := "sha256:" + strings.Repeat("0", 64)
	for _, name := range []string{id + "!out", id + "%21out", id + "!doc"} {
		a, err := s.get(ctx, "/realisations/"+name+".doi")
		if err != nil {
			return err
		}
		if a.Status != 404 {
			return fmt.Errorf("/realisations/%s.doi: status %d, and there is none", name, a.Status)
		}
	}
	return absent("no realisation is known to ask for")
}

var debugFile = regexp.MustCompile(`^lib/debug/\.build-id/([0-9a-f]{2})/([0-9a-f]{38})\.debug$`)

func checkDebugInfo(ctx context.Context, s *session) error {
	for _, i := range s.small() {
		l, _, err := s.layout(ctx, i)
		if err != nil {
			return err
		}
		for n := range l.Len() {
			member := l.Entry(n).Path
			m := debugFile.FindStringSubmatch(member)
			if m == nil {
				continue
			}
			a, err := s.optional(ctx, "/debuginfo/"+m[1]+m[2]+".debug")
			if err != nil {
				return err
			}
			return s.checkDebugFile(ctx, a.body, member)
		}
	}
	return skip("no path has debug info")
}

func (s *session) checkDebugFile(ctx context.Context, text []byte, member string) error {
	var got struct{ Archive, Member string }
	if err := json.Unmarshal(text, &got); err != nil {
		return fmt.Errorf("debug info: %w", err)
	}
	path, ok := strings.CutPrefix(got.Archive, "../")
	if got.Member != member || !ok {
		return fmt.Errorf("debug info: it says %.200s", text)
	}
	a, err := s.do(ctx, "HEAD", "/"+path)
	if err == nil && a.Status != 200 {
		err = fmt.Errorf("debug info names %q, which is status %d", got.Archive, a.Status)
	}
	return err
}

func checkServe(ctx context.Context, s *session) error {
	for _, i := range s.small() {
		l, text, err := s.layout(ctx, i)
		if err != nil {
			return err
		}
		for n := range min(l.Len(), 50) {
			h := l.Entry(n)
			if h.Type != nar.TypeRegular || h.Path == "" || strings.HasSuffix(h.Path, "/index.html") {
				continue
			}
			at := "/serve/" + string(i.path.HashPart()) + "/" + escape(h.Path)
			a, err := s.optional(ctx, at)
			if err != nil {
				return err
			}
			if !bytes.Equal(a.body, text[h.Offset:h.Offset+h.Size]) {
				return fmt.Errorf("%s: not what the archive has", at)
			}
			return nil
		}
	}
	return skip("no path has a file to ask for")
}

func escape(path string) string { return (&url.URL{Path: path}).EscapedPath() }

// malformed are requests that no client makes. They must be refused, and never be the server's fault.
var malformed = []string{
	"/" + absentPart + "z.narinfo",
	"/" + absentPart[1:] + ".narinfo",
	"/.narinfo",
	"/" + strings.Repeat("e", 32) + ".narinfo",
	"/" + strings.Repeat("o", 32) + ".narinfo",
	"/" + strings.Repeat("t", 32) + ".narinfo",
	"/" + strings.Repeat("u", 32) + ".narinfo",
	"/" + strings.Repeat("Z", 32) + ".narinfo",
	"/" + strings.Repeat("%00", 32) + ".narinfo",
	"/" + strings.Repeat("%27", 32) + ".narinfo",
	"/" + strings.Repeat("z", 10_000) + ".narinfo",
	"/nar/", "/nar/.nar", "/nar/-.nar", "/nar/x.nar",
	"/nar/" + absentPart + "-.nar",
	"/nar/" + absentPart + "-" + absentHash + "0.nar",
	"/nar/" + absentHash + ".nar?hash=",
	"/nar/" + absentHash + ".nar?hash=../../etc/passwd",
	"/nar/" + strings.Repeat("e", 52) + ".nar",
	"/nar/../nix-cache-info/../../etc/passwd",
	"/../../../../etc/passwd",
	"/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
	"/..%2f..%2f..%2fetc%2fpasswd",
	"/serve/" + absentPart + "/../../etc/passwd",
	"/serve/" + absentPart + "/%2e%2e/%2e%2e/etc/passwd",
	"/log/../../../etc/passwd",
	"/log/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
	"/log/x", "/log/", "/realisations/x.doi", "/realisations/", "/debuginfo/", "/debuginfo/../x", "/debuginfo/zz",
	"/" + absentPart + "z.ls", "/x.ls",
}

func checkMalformed(ctx context.Context, s *session) error {
	for _, path := range malformed {
		a, err := s.get(ctx, path)
		if err != nil {
			return fmt.Errorf("%.60q: %w", path, err)
		}
		if a.Status < 400 || a.Status > 499 {
			return fmt.Errorf("%.60q: status %d", path, a.Status)
		}
		if bytes.Contains(a.body, []byte("root:")) {
			return fmt.Errorf("%.60q: it shows /etc/passwd", path)
		}
	}
	return nil
}

func checkMethods(ctx context.Context, s *session) error {
	for _, method := range []string{"PUT", "POST", "DELETE", "PATCH", "BREW"} {
		for _, url := range []string{narinfoURL(s.items[0].path), s.items[0].narURL()} {
			a, err := s.do(ctx, method, url, "Content-Length: 0")
			if err != nil {
				return err
			}
			if (a.Status < 400 || a.Status > 499) && a.Status != 501 {
				return fmt.Errorf("%s %s: status %d", method, url, a.Status)
			}
		}
	}
	return nil
}
