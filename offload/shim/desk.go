package shim

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/offload"
)

// Desk says where builds go, and keeps the connections to builders. It is safe for concurrent use.
type Desk interface {
	// Take returns the ticket of a lease that a hook was given, by the name of the program that Nix was told to start.
	// nil: there is none of that name.
	Take(ctx context.Context, program string) (*Ticket, error)

	// Place chooses a builder, and waits until it has room. ErrNobody: no builder takes the build.
	Place(ctx context.Context, w *Wish) (*Ticket, error)

	// Open connects to the daemon of a ticket's machine, which counts as taken until the connection is closed.
	Open(ctx context.Context, t *Ticket) (io.ReadWriteCloser, error)

	// Look takes a machine's readings now.
	Look(ctx context.Context, machine string) (offload.Readings, error)

	// Settle notes how a build ended. ErrForgotten: the desk does not know its lease, for it was begun anew since; then
	// what was lost may have been lost with it.
	Settle(ctx context.Context, r *Report) error

	// Where returns a ticket for fetching an output that was built of late, nil if none knows of it.
	Where(ctx context.Context, output narinfo.StorePath) (*Ticket, error)
}

// ErrNobody says that no builder takes a build.
var ErrNobody = errors.New("no builder takes it")

// ErrForgotten says that a lease is not known.
var ErrForgotten = errors.New("no such lease")

// Wish is a build that wants a builder.
type Wish struct {
	Request *offload.Request `json:"request"`
	Limits  Limits           `json:"limits"`
	// Without are the names of machines that failed at it.
	Without []string `json:"without,omitempty"`
}

// Limits are what the client's settings say of a build.
type Limits struct {
	MaxSilent  time.Duration `json:"max_silent,omitempty"` // 0: none
	Timeout    time.Duration `json:"timeout,omitempty"`    // 0: none
	Substitute bool          `json:"substitute,omitempty"` // builders may fetch inputs from their substituters
	KeepFailed bool          `json:"keep_failed,omitempty"`
}

// Ticket is a place on a machine.
type Ticket struct {
	// Lease is its number; "" for one that only fetches.
	Lease   string          `json:"lease,omitempty"`
	Machine offload.Machine `json:"machine"`
	// Request and Limits are those of the hook's question, if one asked.
	Request *offload.Request `json:"request,omitempty"`
	Limits  Limits           `json:"limits"`
}

// Report is how a build on a machine ended.
type Report struct {
	Lease   string              `json:"lease"`
	Request *offload.Request    `json:"request"`
	Outcome offload.Outcome     `json:"outcome"`
	Outputs []narinfo.StorePath `json:"outputs,omitempty"` // that may now be fetched there

	Wall time.Duration `json:"wall"` // of the build, without transfers; 0: it did not come to that
	CPU  time.Duration `json:"cpu,omitempty"`

	// Sent are the bytes that were sent to the builder before the build, in Sending; Fetched are not part of it.
	Sent    int64         `json:"sent,omitempty"`
	Sending time.Duration `json:"sending,omitempty"`
}
