package coordinator

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/hook"
	"github.com/voidnxlab/nixtrap/offload/shim"
)

// The paths of the HTTP API. Bodies are JSON.
const (
	pathTake      = "/v1/take"      // POST name → shim.Ticket or null
	pathPlace     = "/v1/place"     // POST shim.Wish → shim.Ticket; 404: nobody takes it
	pathOpen      = "/v1/open"      // POST shim.Ticket, Upgrade: the connection becomes the builder's daemon's
	pathLook      = "/v1/look"      // POST name → offload.Readings
	pathSettle    = "/v1/settle"    // POST shim.Report
	pathWhere     = "/v1/where"     // POST store path → shim.Ticket or null
	pathStatus    = "/v1/status"    // GET → Status
	pathDecisions = "/v1/decisions" // GET ?drv=PATH&limit=N → []offload.Decision, the latest first
	pathDrain     = "/v1/drain"     // POST DrainRequest
	pathMode      = "/v1/mode"      // POST ModeRequest
)

// upgradeTo names what a connection becomes.
const upgradeTo = "nix-worker-protocol"

// maxBody bounds a request's body: a report of a derivation with a thousand outputs has some 100 kB.
const maxBody = 4 << 20

// Status is what runs where.
type Status struct {
	Mode      offload.Mode    `json:"mode"`
	ModeUntil time.Time       `json:"mode_until,omitzero"`
	Machines  []MachineStatus `json:"machines"`
	Builds    []BuildStatus   `json:"builds"`
}

// BuildStatus is a build that was given to a machine.
type BuildStatus struct {
	Drv     string    `json:"drv"`
	Name    string    `json:"name"`
	Machine string    `json:"machine"`
	Since   time.Time `json:"since"`
	Began   bool      `json:"began"` // a shim has come for it
}

// DrainRequest gives a machine no more builds for a time. 0 ends that.
type DrainRequest struct {
	Machine string        `json:"machine"`
	For     time.Duration `json:"for"`
}

// ModeRequest sets the mode for a time. 0 ends that.
type ModeRequest struct {
	Mode offload.Mode  `json:"mode"`
	For  time.Duration `json:"for"`
}

// NewHandler serves a coordinator to hooks, shims and people. Who may connect is the caller's to say.
func NewHandler(c *Coordinator) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+hook.DecidePath, hook.NewHandler(c, &hook.HandlerOptions{Logger: c.log}))
	answer(mux, "POST "+pathTake, func(ctx context.Context, name *string) (any, error) { return c.Take(ctx, *name) })
	answer(mux, "POST "+pathPlace, func(ctx context.Context, w *shim.Wish) (any, error) { return c.Place(ctx, w) })
	answer(mux, "POST "+pathLook, func(ctx context.Context, name *string) (any, error) { return c.Look(ctx, *name) })
	answer(mux, "POST "+pathSettle, func(ctx context.Context, r *shim.Report) (any, error) { return nil, c.Settle(ctx, r) })
	answer(mux, "POST "+pathWhere, func(ctx context.Context, p *narinfo.StorePath) (any, error) { return c.Where(ctx, *p) })
	answer(mux, "POST "+pathDrain, func(_ context.Context, d *DrainRequest) (any, error) {
		return nil, c.Drain(d.Machine, time.Now().Add(d.For))
	})
	answer(mux, "POST "+pathMode, func(_ context.Context, m *ModeRequest) (any, error) {
		return nil, c.SetMode(m.Mode, time.Now().Add(m.For))
	})
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, _ *http.Request) { reply(w, c.Status(), nil) })
	mux.HandleFunc("GET "+pathDecisions, func(w http.ResponseWriter, r *http.Request) {
		list, err := c.decisions(r.Context(), r.URL.Query())
		reply(w, list, err)
	})
	mux.HandleFunc("POST "+pathOpen, c.serveOpen)
	return mux
}

// answer has a function answer requests with a body.
func answer[T any](mux *http.ServeMux, pattern string, f func(context.Context, *T) (any, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		question := new(T)
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(question); err != nil {
			http.Error(w, fmt.Sprintf("malformed: %v", err), http.StatusBadRequest)
			return
		}
		a, err := f(r.Context(), question)
		reply(w, a, err)
	})
}

func reply(w http.ResponseWriter, a any, err error) {
	switch {
	case errors.Is(err, shim.ErrNobody):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case errors.Is(err, shim.ErrForgotten):
		http.Error(w, err.Error(), http.StatusGone)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a) // who has left needs no answer
}

func (c *Coordinator) decisions(ctx context.Context, q url.Values) ([]offload.Decision, error) {
	if c.opts.History == nil {
		return nil, errors.New("no history is kept here")
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 1 {
		limit = 1
	}
	return c.opts.History.Decisions(ctx, q.Get("drv"), min(limit, 1000))
}

// Status returns what runs where.
func (c *Coordinator) Status() Status {
	s := Status{Machines: c.Machines(), Builds: []BuildStatus{}}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Mode = c.policy(now).Mode
	if s.Mode == "" {
		s.Mode = offload.ModeAuto
	}
	if now.Before(c.override.until) {
		s.ModeUntil = c.override.until
	}
	for _, m := range c.fleet {
		for l := range m.running {
			s.Builds = append(s.Builds, BuildStatus{l.request.DrvPath, l.request.Name, m.Name, l.started, l.expires.IsZero()})
		}
	}
	return s
}

// serveOpen makes a connection that of a builder's daemon.
func (c *Coordinator) serveOpen(w http.ResponseWriter, r *http.Request) {
	var t shim.Ticket
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&t); err != nil {
		http.Error(w, fmt.Sprintf("malformed: %v", err), http.StatusBadRequest)
		return
	}
	if r.Header.Get("Upgrade") != upgradeTo {
		http.Error(w, "needs Upgrade: "+upgradeTo, http.StatusUpgradeRequired)
		return
	}
	builder, err := c.Open(r.Context(), &t)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = builder.Close() }()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = client.Close() }()
	if err := client.SetDeadline(time.Time{}); err != nil {
		return
	}
	if _, err := io.WriteString(client, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeTo+"\r\n\r\n"); err != nil {
		return
	}
	splice(client, buffered.Reader, builder)
}

// splice copies both ways until one of them ends, and closes both.
func splice(client net.Conn, fromClient *bufio.Reader, builder io.ReadWriteCloser) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(builder, fromClient)
		_ = builder.Close()
	}()
	_, _ = io.Copy(client, builder)
	_ = client.Close()
	_ = builder.Close()
	<-done
}
