package httpcache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

// finder has the paths that it lists.
type finder struct {
	present []narinfo.HashPart
	err     error
	asked   [][]narinfo.HashPart
}

func (f *finder) Receive(context.Context, string, string, io.Reader) error {
	return errors.New("unexpected")
}
func (f *finder) Holds(context.Context, string) (bool, error) { return false, nil }

func (f *finder) Missing(_ context.Context, hashes []narinfo.HashPart) (missing []narinfo.HashPart, err error) {
	f.asked = append(f.asked, hashes)
	for _, hash := range hashes {
		if !slices.Contains(f.present, hash) {
			missing = append(missing, hash)
		}
	}
	return missing, f.err
}

// plainReceiver hides that it finds what is missing.
type plainReceiver struct{ f *finder }

func (p plainReceiver) Receive(ctx context.Context, by, key string, r io.Reader) error {
	return p.f.Receive(ctx, by, key, r)
}
func (p plainReceiver) Holds(ctx context.Context, key string) (bool, error) {
	return p.f.Holds(ctx, key)
}

const (
	hash1 = "00000000000000000000000000000001"
	hash2 = "00000000000000000000000000000002"
)

func post(h http.Handler, body string, headers ...string) *http.Response {
	r := httptest.NewRequest(http.MethodPost, "/missing-paths", strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func mayPush() *answers {
	return &answers{identity: &httpcache.Identity{Name: "ci", Scopes: httpcache.ScopePush}}
}

func TestMissingPathsAreAnsweredAsTheyAreSpelled(t *testing.T) {
	f := &finder{present: []narinfo.HashPart{hash1}}
	h := newHandler(t, &storetest.Memory{}, &httpcache.Options{Access: mayPush(), Receiver: f})
	r := post(h, `{"paths":["`+hash2+`","/nix/store/`+hash1+`-a","/nix/store/`+hash2+`-b","`+hash1+`"],"more":true}`)
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
	require.JSONEq(t, `{"missing":["`+hash2+`","/nix/store/`+hash2+`-b"]}`, body(t, r))

	r = post(h, `{"paths":[]}`)
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.JSONEq(t, `{"missing":[]}`, body(t, r), "an empty list, not null")

	e, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	r = post(h, string(e.EncodeAll([]byte(`{"paths":["`+hash1+`"]}`), nil)), "Content-Encoding", "zstd")
	require.JSONEq(t, `{"missing":[]}`, body(t, r))
}

func TestMissingPathsRefuses(t *testing.T) {
	many, err := json.Marshal(map[string][]string{"paths": slices.Repeat([]string{hash1}, httpcache.MaxMissingPaths)})
	require.NoError(t, err)
	more := strings.Replace(string(many), "[", `["`+hash1+`",`, 1)
	for name, row := range map[string]struct {
		body   string
		status int
	}{
		"nothing":               {"", 400},
		"no JSON":               {"paths", 400},
		"no list":               {"{}", 400},
		"null":                  {`{"paths":null}`, 400},
		"a list of numbers":     {`{"paths":[1]}`, 400},
		"something behind":      {`{"paths":[]}{}`, 400},
		"a bad hash part":       {`{"paths":["` + hash1[1:] + `e"]}`, 400},
		"no store path":         {`{"paths":["/nix/store/x"]}`, 400},
		"a path of other store": {`{"paths":["/gnu/store/` + hash1 + `-a"]}`, 400},
		"a path in a path":      {`{"paths":["/nix/store/` + hash1 + `-a/bin"]}`, 400},
		"as many as may be":     {string(many), 200},
		"one more":              {more, 413},
		"a long body":           {`{"paths":[]` + strings.Repeat(" ", 16<<20) + `}`, 413},
	} {
		f := &finder{}
		h := newHandler(t, &storetest.Memory{}, &httpcache.Options{Access: mayPush(), Receiver: f})
		r := post(h, row.body)
		require.Equal(t, row.status, r.StatusCode, name)
		if row.status != 200 {
			require.Empty(t, f.asked, name)
		}
	}
	var bomb bytes.Buffer
	e, err := zstd.NewWriter(&bomb)
	require.NoError(t, err)
	for range 1 << 10 {
		_, err = e.Write(make([]byte, 1<<20))
		require.NoError(t, err)
	}
	require.NoError(t, e.Close())
	h := newHandler(t, &storetest.Memory{}, &httpcache.Options{Access: mayPush(), Receiver: &finder{}})
	require.Equal(t, 413, post(h, bomb.String(), "Content-Encoding", "zstd").StatusCode)
	require.Equal(t, 400, post(h, "{}", "Content-Encoding", "br").StatusCode)
	require.Equal(t, 400, post(h, "{}", "Content-Encoding", "gzip").StatusCode)
}

func TestMissingPathsNeedsTheRightToPush(t *testing.T) {
	question := `{"paths":["` + hash1 + `"]}`
	for name, row := range map[string]struct {
		access *answers
		status int
	}{
		"nobody": {&answers{err: httpcache.ErrNoCredential}, 401},
		"forged": {&answers{err: httpcache.ErrBadCredential}, 401},
		"reader": {&answers{identity: &httpcache.Identity{Name: "r", Scopes: httpcache.ScopeRead}}, 403},
		"pusher of another cache": {&answers{identity: &httpcache.Identity{Name: "p", Scopes: httpcache.ScopePush,
			Caches: []string{"other"}}}, 403},
	} {
		f := &finder{}
		h := newHandler(t, &storetest.Memory{}, &httpcache.Options{Access: row.access, Receiver: f})
		require.Equal(t, row.status, post(h, question).StatusCode, name)
		require.Empty(t, f.asked, name)
	}
}

func TestMissingPathsIsThereOnlyWhereItCanBeAnswered(t *testing.T) {
	f := &finder{}
	plain := newHandler(t, &storetest.Memory{}, &httpcache.Options{Access: mayPush(), Receiver: plainReceiver{f}})
	r := post(plain, "{}")
	require.Equal(t, http.StatusMethodNotAllowed, r.StatusCode)
	require.Equal(t, "GET, HEAD, PUT", r.Header.Get("Allow"))

	h := newHandler(t, &storetest.Memory{}, &httpcache.Options{Access: mayPush(), Receiver: f})
	require.Equal(t, http.StatusMethodNotAllowed, request(h, http.MethodPost, "/").StatusCode)
	require.Equal(t, http.StatusNotFound, get(h, "/missing-paths").StatusCode)
	r = request(h, "BREW", "/missing-paths")
	require.Equal(t, http.StatusMethodNotAllowed, r.StatusCode)
	require.Equal(t, "POST", r.Header.Get("Allow"))

	var last httpcache.Done
	f.err = errors.New("database is down")
	h = newHandler(t, &storetest.Memory{}, &httpcache.Options{Access: mayPush(), Receiver: f, Trace: &httpcache.Trace{
		Done: func(_ context.Context, d httpcache.Done) { last = d }}})
	require.Equal(t, 500, post(h, `{"paths":["`+hash1+`"]}`).StatusCode)
	require.Equal(t, httpcache.KindMissingPaths, last.Kind)
	require.Equal(t, 500, last.Status)
}
