package hook_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/voidnxlab/nixtrap/offload/hook"
)

// listen serves on a unix socket and returns its file.
func listen(t *testing.T, handler http.Handler) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	return socket
}

type decideFunc func(hook.Settings, *hook.Try) (*hook.Answer, error)

func (f decideFunc) Decide(_ context.Context, settings hook.Settings, try *hook.Try) (*hook.Answer, error) {
	return f(settings, try)
}

func TestCoordinatorSeesTheQuestionAndItsAnswerArrives(t *testing.T) {
	want := &hook.Answer{Verdict: hook.Accept, Line: line, Name: "big", Messages: []hook.Message{{Level: 3, Text: "why"}}}
	var seen hook.Settings
	socket := listen(t, hook.NewHandler(decideFunc(func(settings hook.Settings, asked *hook.Try) (*hook.Answer, error) {
		seen = settings
		require.Equal(t, try, asked)
		return want, nil
	}), nil))
	told := append(settings, hook.Setting{Name: "access-tokens", Value: "secret"},
		hook.Setting{Name: "substituters", Value: strings.Repeat("x", 1<<20)})
	got, err := hook.NewClient(socket).Decide(t.Context(), told, try)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, hook.Settings{{"builders", "ssh://a"}, {"max-jobs", "4"}}, seen, "no secrets, nothing huge")
}

func TestCoordinatorsTroubleIsAnError(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"status": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://example.org", http.StatusFound)
		},
		"garbage": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "# accept") },
		"empty":   func(http.ResponseWriter, *http.Request) {},
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := io.WriteString(w, strings.Repeat(" ", 1<<10)); err != nil {
					return
				}
			}
		},
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"verdict":"decline"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := hook.NewClient(listen(t, handler)).Decide(t.Context(), settings, try)
			require.Error(t, err)
		})
	}
	_, err := hook.NewClient(filepath.Join(t.TempDir(), "none")).Decide(t.Context(), settings, try)
	require.ErrorContains(t, err, "no such file")
}

func TestHandlerRefusesWhatIsNoQuestion(t *testing.T) {
	handler := hook.NewHandler(hook.Fixed{Verdict: "nonsense"}, nil)
	for name, test := range map[string]struct {
		method, body string
		status       int
	}{
		"get":              {http.MethodGet, "", http.StatusMethodNotAllowed},
		"empty":            {http.MethodPost, "", http.StatusBadRequest},
		"not JSON":         {http.MethodPost, "try", http.StatusBadRequest},
		"huge":             {http.MethodPost, `{"settings":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`, http.StatusBadRequest},
		"malformed answer": {http.MethodPost, `{"try":{"drv":"x"},"later":1}`, http.StatusInternalServerError},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(test.method, hook.DecidePath, strings.NewReader(test.body)))
			require.Equal(t, test.status, w.Code)
		})
	}
}
