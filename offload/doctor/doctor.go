package doctor

import (
	"context"
	"sync"

	"github.com/voidnxlab/nixtrap/offload/coordinator"
	"github.com/voidnxlab/nixtrap/offload/ssh"
)

// Grade is how bad a finding is.
type Grade string

// The grades.
const (
	Good    Grade = "ok"
	Warning Grade = "warning" // builds go on, and worse than they could
	Fault   Grade = "fault"   // some builds or all do not go where they should
)

// Finding is what one examination has shown.
type Finding struct {
	Grade   Grade  `json:"grade"`
	Machine string `json:"machine,omitempty"` // a builder's name; "": this machine
	Check   string `json:"check"`             // one of the names above
	Text    string `json:"text"`              // what was found, with the file or the machine
	Fix     string `json:"fix,omitempty"`     // what to do about it
}

// Options say what is examined. The zero value of a field has the sense that it says.
type Options struct {
	// MachinesFile is the list of builders. "": [machines.DefaultFile].
	MachinesFile string
	// Socket is the coordinator's.
	Socket string
	// SSH is how builders are logged in to. nil: the defaults of package ssh.
	SSH *ssh.Options
	// Nix is this machine's program nix. "": that on PATH.
	Nix string
	// Environ is that of nix-daemon, in the form of os.Environ. nil: that of the running one if this process may see it,
	// else this process's own.
	Environ []string
}

// patients is how many builders are examined at a time.
const patients = 8

// Examine examines this machine, and then each builder. It takes some seconds where builders do not answer.
func Examine(ctx context.Context, o *Options) []Finding {
	h := &here{Options: *o}
	list := h.machines()
	h.nix(ctx)
	h.coordinator(ctx, list)
	transport := &coordinator.SSH{Options: o.SSH}
	defer transport.Close()
	found := make([][]Finding, len(list))
	turn := make(chan struct{}, patients)
	var all sync.WaitGroup
	for i := range list {
		all.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			found[i] = examineBuilder(ctx, &list[i], transport)
		})
	}
	all.Wait()
	for _, f := range found {
		h.findings = append(h.findings, f...)
	}
	return h.findings
}

// report is what is found of this machine or of one builder.
type report struct {
	machine  string
	findings []Finding
}

func (r *report) add(grade Grade, check, text, fix string) {
	r.findings = append(r.findings, Finding{grade, r.machine, check, text, fix})
}

// Sick tells whether one of the findings is a fault.
func Sick(list []Finding) bool {
	for _, f := range list {
		if f.Grade == Fault {
			return true
		}
	}
	return false
}
