// Package shelf is an HTTP server for tests that keeps whatever it is given, as a WebDAV folder does, and gives nothing back.
package shelf

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// Server answers PUT and HEAD, and 405 to the rest. The zero value is empty. It is safe for concurrent use.
type Server struct {
	mu    sync.Mutex // guards files
	files map[string]string
}

var _ http.Handler = (*Server)(nil)

// ServeHTTP implements http.Handler. A body that breaks off leaves nothing.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.files[r.URL.Path]
	switch {
	case r.Method == http.MethodPut:
		if s.files == nil {
			s.files = make(map[string]string)
		}
		s.files[r.URL.Path] = string(body)
		w.WriteHeader(http.StatusCreated)
	case r.Method != http.MethodHead:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case !there:
		w.WriteHeader(http.StatusNotFound)
	}
}

// File returns what was put at a URL's path, "" if nothing was.
func (s *Server) File(path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[path]
}

// Names returns the paths at which something is, sorted.
func (s *Server) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.files))
}

// Clear forgets everything.
func (s *Server) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.files)
}
