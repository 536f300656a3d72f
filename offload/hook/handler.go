package hook

import (
	"encoding/json"
	"log/slog"
	"net/http"
)

// HandlerOptions are the optional parts of a [NewHandler].
type HandlerOptions struct {
	// Logger gets what goes wrong. Nil discards it.
	Logger *slog.Logger
}

// NewHandler returns the coordinator's side of [DecidePath]: it asks decider what hooks ask. Settings are those of
// [SharedSettings] in order of their names. An answer that is malformed or an error is status 500, and what happens then
// is up to the hook. Who may connect is the caller's to say, as are timeouts: a hook hangs up at its deadline, which
// cancels the context.
func NewHandler(decider Decider, opts *HandlerOptions) http.Handler {
	logger := slog.New(slog.DiscardHandler)
	if opts != nil && opts.Logger != nil {
		logger = opts.Logger
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "only POST", http.StatusMethodNotAllowed)
			return
		}
		var request Request
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&request); err != nil {
			logger.Debug("hook's question is malformed", "error", err)
			http.Error(w, "not a question", http.StatusBadRequest)
			return
		}
		answer, err := decider.Decide(r.Context(), request.settings(), &request.Try)
		if err == nil {
			err = answer.check()
		}
		if err != nil {
			logger.Error("no answer to a hook", "drv", request.Try.Drv, "error", err)
			http.Error(w, "no answer", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			logger.Debug("hook's answer was not written", "error", err)
		}
	})
}
