package hook

import (
	"maps"
	"slices"
)

// DecidePath is where a coordinator takes a [Request] by POST. Its answer is an [Answer].
const DecidePath = "/v1/decide"

// Limits of what goes over the socket, in bytes.
const (
	maxRequest = 2 << 20
	maxAnswer  = 256 << 10
	maxValue   = 64 << 10 // of a setting
)

// Request is what a coordinator is asked, as JSON. Fields that one side does not know are ignored.
type Request struct {
	// Settings are those of Nix's settings that may weigh on a decision, by their names: [SharedSettings].
	Settings map[string]string `json:"settings"`
	// Try is Nix's question.
	Try Try `json:"try"`
}

// SharedSettings returns the names of the settings that a coordinator is told of, as far as Nix has sent them and they
// are no longer than 64 KiB. The others may hold secrets.
func SharedSettings() []string {
	return []string{
		"build-poll-interval", "builders", "builders-use-substitutes", "connect-timeout", "cores", "extra-platforms",
		"fallback", "keep-failed", "max-build-log-size", "max-jobs", "max-silent-time", "store", "substitute",
		"substituters", "system", "system-features", "timeout",
	}
}

func newRequest(settings Settings, try *Try) *Request {
	r := &Request{Settings: make(map[string]string), Try: *try}
	for _, name := range SharedSettings() {
		if value, ok := settings.Lookup(name); ok && len(value) <= maxValue {
			r.Settings[name] = value
		}
	}
	return r
}

// settings are the request's, in order of their names.
func (r *Request) settings() Settings {
	var list Settings
	for _, name := range slices.Sorted(maps.Keys(r.Settings)) {
		list = append(list, Setting{name, r.Settings[name]})
	}
	return list
}
