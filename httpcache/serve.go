package httpcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store"
)

// sandbox is the Content-Security-Policy of everything out of a store path, which anybody may have built:
// no script, no form, no other origin, and an origin of its own.
const sandbox = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; " +
	"form-action 'none'; frame-ancestors 'none'"

// place is a URL below /serve/.
type place struct {
	hash  string
	file  string // what follows the hash's slash
	slash bool   // whether there is that slash
}

// maxLinks is how many symlinks are followed on the way to one file, as the kernel has it.
const maxLinks = 40

// serveFile answers with a file out of a path, or with a page for a directory.
// An index.html is a file like any other: a directory's page is always ours.
func (h *Handler) serveFile(ctx context.Context, at place) (*content, error) {
	info, err := h.lookUp(ctx, at.hash)
	if err != nil {
		return nil, err
	}
	layout, err := store.Layout(ctx, h.store, info)
	if err != nil {
		return nil, err
	}
	file, trailing := strings.CutSuffix(at.file, "/")
	node, ok := resolve(layout, info.StorePath, file)
	if !ok {
		return nil, notFound("no %q in %q", at.file, info.StorePath)
	}
	isDir := layout.Entry(node).Type == nar.TypeDirectory
	atDir := trailing || (at.slash && at.file == "")
	switch {
	case isDir && !atDir:
		last := at.hash
		if at.slash {
			last = file[strings.LastIndexByte(file, '/')+1:]
		}
		return nil, redirect("./" + url.PathEscape(last) + "/")
	case isDir:
		return directoryPage(info, layout, node, file)
	case trailing:
		return nil, notFound("%q in %q is no directory", at.file, info.StorePath)
	}
	return h.file(ctx, info, layout.Entry(node), node)
}

// resolve finds a node by its path within l, following symlinks as long as they stay within it.
// One that leads elsewhere, to another store path even, leads nowhere.
func resolve(l *nar.Layout, root narinfo.StorePath, path string) (node int, ok bool) {
	var at []string // the components that are done with; none of them is a symlink
	todo := components(path)
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case ".":
			continue
		case "..":
			if len(at) == 0 {
				return 0, false
			}
			at = at[:len(at)-1]
			continue
		}
		at = append(at, name)
		node, ok := l.Lookup(strings.Join(at, "/"))
		if !ok {
			return 0, false
		}
		e := l.Entry(node)
		if e.Type != nar.TypeSymlink {
			if e.Type != nar.TypeDirectory && len(todo) > 0 {
				return 0, false
			}
			continue
		}
		links++
		target, within := linkTarget(e.Target, root)
		if links > maxLinks || !within {
			return 0, false
		}
		at = at[:len(at)-1]
		if target != e.Target {
			at = at[:0]
		}
		todo = append(components(target), todo...)
	}
	node, ok = l.Lookup(strings.Join(at, "/"))
	return node, ok && l.Entry(node).Type != nar.TypeSymlink
}

// linkTarget turns an absolute target below root into one relative to root, and refuses other absolute ones.
func linkTarget(target string, root narinfo.StorePath) (relative string, within bool) {
	if !strings.HasPrefix(target, "/") {
		return target, true
	}
	rest, ok := strings.CutPrefix(target, string(root))
	return rest, ok && (rest == "" || rest[0] == '/')
}

func components(path string) []string {
	if path == "" {
		return nil
	}
	all := strings.Split(path, "/")
	kept := all[:0]
	for _, c := range all {
		if c != "" {
			kept = append(kept, c)
		}
	}
	return kept
}

// file answers with a regular file's content: a range of the NAR.
func (h *Handler) file(ctx context.Context, info *narinfo.Info, e nar.Header, node int) (*content, error) {
	open := func(ctx context.Context, s span) (io.ReadCloser, error) {
		return store.OpenRange(ctx, h.store, info, e.Offset+s.offset, s.length)
	}
	mime, err := sniff(ctx, e.Size, open)
	if err != nil {
		return nil, fmt.Errorf("httpcache: %q in %q: %w", e.Path, info.StorePath, err)
	}
	etag := strconv.Quote(info.NarHash.Base32() + "-" + strconv.Itoa(node))
	return &content{mime: mime, cache: cacheAnHour, etag: etag, size: e.Size, csp: sandbox, open: open}, nil
}

// sniff looks at a file's first bytes: a picture that browsers show safely, text as plain text, and nothing else has a
// type. Markup is text.
func sniff(ctx context.Context, size int64, open func(context.Context, span) (io.ReadCloser, error)) (string, error) {
	if size == 0 {
		return mimeText, nil
	}
	r, err := open(ctx, span{0, min(size, 512)})
	if err != nil {
		return "", err
	}
	head, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		return "", err
	}
	switch mime := http.DetectContentType(head); mime {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		return mime, nil
	}
	if isText(head, int64(len(head)) == size) {
		return mimeText, nil
	}
	return "application/octet-stream", nil
}

// isText reports whether head is UTF-8 without control characters; unless whole, its last character may be cut.
func isText(head []byte, whole bool) bool {
	for len(head) > 0 {
		r, n := utf8.DecodeRune(head)
		if r == utf8.RuneError && n == 1 {
			return !whole && !utf8.FullRune(head)
		}
		if r < ' ' && !strings.ContainsRune("\t\n\r\f\x1b", r) {
			return false
		}
		head = head[n:]
	}
	return true
}
