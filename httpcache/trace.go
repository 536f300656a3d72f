package httpcache

import (
	"context"
	"time"
)

// Trace has hooks for metrics. Each may be nil; they are called from the requests' goroutines, so must be safe for
// concurrent use and quick.
type Trace struct {
	// Done is called once for every request, when its answer has ended or has been given up.
	Done func(ctx context.Context, d Done)
}

// Done is what there is to say of one request.
type Done struct {
	Kind     Kind
	Method   string // "GET", "HEAD" or "other"
	Status   int    // the status sent; 0 if the client was gone before there was one
	Bytes    int64  // of the body, as handed to the connection
	Duration time.Duration
	Aborted  bool // the answer was cut off after its status line
}

// Kind is what a request asked for: a small closed set, fit for a metric's label.
type Kind uint8

// The kinds of requests.
const (
	KindOther Kind = iota // nothing that is served here
	KindCacheInfo
	KindNarinfo
	KindNAR
	KindListing
	KindLog
	KindRealisation
	KindDebugInfo
	KindServe
	KindLanding
	KindHealth
	KindMissingPaths
)

// String returns the kind's name in lower snake case.
func (k Kind) String() string {
	names := [...]string{"other", "cache_info", "narinfo", "nar", "listing", "log", "realisation", "debuginfo",
		"serve", "landing", "health", "missing_paths"}
	if int(k) >= len(names) {
		return names[KindOther]
	}
	return names[k]
}

// Kinds returns every kind.
func Kinds() []Kind {
	kinds := make([]Kind, 0, KindMissingPaths+1)
	for k := KindOther; k <= KindMissingPaths; k++ {
		kinds = append(kinds, k)
	}
	return kinds
}
