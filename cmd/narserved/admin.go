package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/voidnxlab/nixtrap/httpcache"
	"github.com/voidnxlab/nixtrap/store"
)

// traffic counts what the server does. It is safe for concurrent use.
type traffic struct {
	log     *slog.Logger
	running atomic.Int64
	kinds   map[httpcache.Kind]*kindTraffic // complete from the start, never changed
}

type kindTraffic struct {
	requests, failed, aborted, bytes atomic.Int64
}

func newTraffic(log *slog.Logger) *traffic {
	t := &traffic{log: log, kinds: make(map[httpcache.Kind]*kindTraffic)}
	for _, kind := range httpcache.Kinds() {
		t.kinds[kind] = new(kindTraffic)
	}
	return t
}

// pathKey is where a request's context keeps its URL's path, for the log.
type pathKey struct{}

// count is middleware that counts running requests. It leaves the ResponseWriter alone, so that files are still copied
// by the kernel, and lets the panic of an aborted answer pass.
func (t *traffic) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.running.Add(1)
		defer t.running.Add(-1)
		if r.ContentLength != 0 {
			// Nobody has a reason to send a body; without a limit one could take for ever to arrive.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(headerTimeout))
		}
		if t.log.Enabled(r.Context(), slog.LevelDebug) {
			r = r.WithContext(context.WithValue(r.Context(), pathKey{}, r.URL.Path))
		}
		next.ServeHTTP(w, r)
	})
}

func (t *traffic) trace() *httpcache.Trace { return &httpcache.Trace{Done: t.done} }

func (t *traffic) done(ctx context.Context, d httpcache.Done) {
	kind := t.kinds[d.Kind]
	kind.requests.Add(1)
	kind.bytes.Add(d.Bytes)
	if d.Status >= http.StatusInternalServerError {
		kind.failed.Add(1)
	}
	if d.Aborted {
		kind.aborted.Add(1)
	}
	if path, ok := ctx.Value(pathKey{}).(string); ok {
		t.log.Debug("request", "kind", d.Kind.String(), "method", d.Method, "path", path, "status", d.Status,
			"bytes", d.Bytes, "duration", d.Duration, "aborted", d.Aborted)
	}
}

// status is what /status says, as JSON. Counters begin at zero with the process.
type status struct {
	Version       string                `json:"version"`
	Started       time.Time             `json:"started"`
	UptimeSeconds int64                 `json:"uptime_seconds"`
	Goroutines    int                   `json:"goroutines"`
	StoreDir      string                `json:"store_dir"`
	Source        string                `json:"source"`  // which store is served
	Running       int64                 `json:"running"` // requests that are being answered
	Requests      map[string]kindStatus `json:"requests"`
	Artefacts     *artefactStatus       `json:"artefacts,omitempty"`
	Upstreams     []upstreamStatus      `json:"upstreams"`
	Quarantined   []quarantinedPath     `json:"quarantined"` // paths not served because their content is wrong
}

type kindStatus struct {
	Count   int64 `json:"count"`
	Failed  int64 `json:"failed"`  // answered with a status of 500 or more
	Aborted int64 `json:"aborted"` // cut off after the status line
	Bytes   int64 `json:"bytes"`   // of bodies
}

type quarantinedPath struct {
	Path   string    `json:"path"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
}

// quarantiner is a store that knows of damaged paths.
type quarantiner interface {
	Quarantined() []store.Quarantined
}

// adminHandler answers on the listener of its own: /healthz as the cache does, and /status.
func (s *server) adminHandler(cache http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", cache)
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(s.status())
	})
	return mux
}

func (s *server) status() status {
	st := status{
		Version: version(), Started: s.started.UTC(), UptimeSeconds: int64(time.Since(s.started).Seconds()),
		Goroutines: runtime.NumGoroutine(), StoreDir: s.source.StoreDir(), Source: s.source.name,
		Running: s.traffic.running.Load(), Requests: make(map[string]kindStatus), Quarantined: []quarantinedPath{},
	}
	for kind, t := range s.traffic.kinds {
		st.Requests[kind.String()] = kindStatus{t.requests.Load(), t.failed.Load(), t.aborted.Load(), t.bytes.Load()}
	}
	st.Artefacts = s.artefactStatus()
	st.Upstreams = s.up.status()
	st.quarantined(s.source.Store)
	if s.kept != nil {
		st.quarantined(s.kept.Store)
	}
	return st
}

func (st *status) quarantined(of store.Store) {
	q, ok := of.(quarantiner)
	if !ok {
		return
	}
	for _, path := range q.Quarantined() {
		st.Quarantined = append(st.Quarantined, quarantinedPath{string(path.Path), path.Since.UTC(), path.Reason})
	}
}
