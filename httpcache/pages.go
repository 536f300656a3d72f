package httpcache

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/voidnxlab/nixtrap/nar"
	"github.com/voidnxlab/nixtrap/narinfo"
)

const mimeHTML = "text/html; charset=utf-8"

// style is the only thing that a page of ours loads.
const style = `<style>
body { font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; line-height: 1.5 }
pre { background: #eee; padding: 1em; overflow-x: auto }
td { padding-right: 2em; font-family: monospace }
td:last-child { text-align: right }
</style>`

// landingPolicy lets the landing page have its style and nothing more.
const landingPolicy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; " +
	"frame-ancestors 'none'"

var landingPage = template.Must(template.New("landing").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Nix binary cache</title>` + style + `</head><body>
<h1>Nix binary cache</h1>
<p>This server has store paths of <code>{{.StoreDir}}</code> for <a href="https://nixos.org">Nix</a>.</p>
{{if .URL}}<h2>nix.conf</h2>
<pre>extra-substituters = {{.URL}}
{{- if .Keys}}
extra-trusted-public-keys ={{range .Keys}} {{.}}{{end}}{{end}}
</pre>
<h2>NixOS</h2>
<pre>nix.settings = {
  substituters = [ "{{.URL}}" ];
{{- if .Keys}}
  trusted-public-keys = [{{range .Keys}} "{{.}}"{{end}} ];{{end}}
};
</pre>{{end}}
{{if .Keys}}<h2>Public keys</h2>
<pre>{{range .Keys}}{{.}}
{{end}}</pre>
{{else}}<p>This server signs nothing: clients must trust the keys of those who signed the paths.</p>{{end}}
</body></html>
`))

// landing answers with the page for people.
func (h *Handler) landing(r *http.Request) (*content, error) {
	page := struct {
		StoreDir, URL string
		Keys          []string
	}{h.store.StoreDir(), h.publicURL(r), nil}
	for _, k := range h.opts.Keys {
		page.Keys = append(page.Keys, k.Public().String())
	}
	return render(landingPage, page, landingPolicy)
}

// plainHost is a host name or address with an optional port, and nothing that could be anything else.
var plainHost = regexp.MustCompile(`^([0-9A-Za-z]([0-9A-Za-z.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?$`)

// publicURL returns the cache's address, "" if neither settings nor request have one that can be shown.
func (h *Handler) publicURL(r *http.Request) string {
	if h.opts.PublicURL != "" {
		return h.opts.PublicURL
	}
	if !plainHost.MatchString(r.Host) {
		return ""
	}
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

var listPage = template.Must(template.New("directory").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Title}}</title>` + style + `</head><body>
<h1>{{.Title}}</h1>
<table>
{{if .Parent}}<tr><td><a href="../">../</a></td><td></td></tr>
{{end}}{{range .Rows}}<tr><td><a href="{{.URL}}">{{.Name}}</a></td><td>{{.Note}}</td></tr>
{{end}}</table>
</body></html>
`))

type listRow struct{ URL, Name, Note string }

// directoryPage lists a directory. Its links are relative, so that it may lie below any prefix.
func directoryPage(info *narinfo.Info, l *nar.Layout, node int, file string) (*content, error) {
	page := struct {
		Title  string
		Parent bool
		Rows   []listRow
	}{info.StorePath.Base(), file != "", nil}
	if file != "" {
		page.Title += "/" + file
	}
	page.Title = printable(page.Title)
	for child := range l.Children(node) {
		page.Rows = append(page.Rows, rowOf(l.Entry(child)))
	}
	return render(listPage, page, sandbox)
}

func rowOf(e nar.Header) listRow {
	name := path.Base(e.Path)
	row := listRow{URL: "./" + url.PathEscape(name), Name: printable(name)}
	switch e.Type {
	case nar.TypeDirectory:
		row.URL += "/"
		row.Name += "/"
	case nar.TypeSymlink:
		row.Note = "→ " + printable(e.Target)
	case nar.TypeRegular:
		row.Note = fmt.Sprint(e.Size)
	}
	return row
}

// printable shows bytes that are no UTF-8 as what browsers show for them.
func printable(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func render(t *template.Template, data any, csp string) (*content, error) {
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("httpcache: page %s: %w", t.Name(), err)
	}
	c := text(mimeHTML, "no-cache", b.Bytes())
	c.csp = csp
	return c, nil
}
