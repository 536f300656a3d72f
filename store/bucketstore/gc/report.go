package gc

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// Reason is why a path is kept or deleted.
type Reason int

// Kept are paths for the first of these reasons that holds, deleted ones for the last three.
const (
	Pinned       Reason = iota + 1
	Leased              // to an upload or download under way
	Publishing          // just being published, or published again
	BeingDeleted        // by somebody else, who is at it
	Referenced          // by a path that is kept for one of the reasons above: By leads to it
	Used                // within KeepUsed, it or By, and there was room
	Changed             // was to be deleted, but something came between: Err says what

	TooOld      // not used within KeepUsed
	NoRoom      // MaxSize was full with what was used later
	HalfDeleted // left so by a process that died
)

func (r Reason) keeps() bool { return r <= Changed }

// Decision is what was done with one path.
type Decision struct {
	Cache    string
	Path     narinfo.StorePath
	Size     int64 // bytes of its archive, which others may share
	Kept     bool
	Reason   Reason
	Pins     []string          // names, for Pinned
	By       narinfo.StorePath // what refers to it, directly or not, and is why; "": the reason is its own
	LastUsed time.Time         // the latest use of it or of anything that refers to it
	Err      error             // with Changed what came between; of a path that is not Kept, why it is only half deleted

	noted bool // what became of a victim is known
}

// String writes it as one line.
func (d Decision) String() string {
	verb := "keep"
	if !d.Kept {
		verb = "delete"
	}
	name := string(d.Path)
	if d.Cache != "" {
		name = d.Cache + ": " + name
	}
	line := fmt.Sprintf("%s %s (%d bytes): %s", verb, name, d.Size, d.why())
	if d.Err != nil {
		line += ": " + d.Err.Error()
	}
	return line
}

func (d *Decision) why() string {
	used := "last used " + d.LastUsed.UTC().Format(time.DateTime)
	if d.By != "" {
		used += " through " + string(d.By)
	}
	switch d.Reason {
	case Pinned:
		return "pinned as " + strings.Join(d.Pins, ", ")
	case Leased:
		return "leased to an upload or download"
	case Publishing:
		return "being published"
	case BeingDeleted:
		return "being deleted by somebody else"
	case Referenced:
		return "referred to by " + string(d.By)
	case Used:
		return used
	case Changed:
		return "changed meanwhile"
	case TooOld:
		return "too old, " + used
	case NoRoom:
		return "no room, " + used
	case HalfDeleted:
		return "left half deleted"
	}
	return "no reason"
}

// Report is what a collection did, or with DryRun would do.
type Report struct {
	DryRun        bool
	Paths         []Decision // all that were in the catalog when it began, in no certain order
	Kept, Deleted int        // paths
	Failed        int        // paths whose narinfo or archive could not be removed: the next collection tries again

	// Bytes of archives: Before and After it; of those Freed. Excess is by how much what is pinned, leased or in use by a
	// publication is over MaxSize: so much is too much even now.
	Before, After, Freed, Excess int64
}

// WriteTo writes a line for each path, sorted by cache and path, and a last one that sums up.
func (r *Report) WriteTo(w io.Writer) (int64, error) {
	var n int64
	sorted := make([]*Decision, len(r.Paths))
	for i := range r.Paths {
		sorted[i] = &r.Paths[i]
	}
	slices.SortFunc(sorted, func(a, b *Decision) int {
		return cmp.Or(strings.Compare(a.Cache, b.Cache), strings.Compare(string(a.Path), string(b.Path)))
	})
	for _, d := range sorted {
		written, err := fmt.Fprintln(w, d)
		if n += int64(written); err != nil {
			return n, err
		}
	}
	written, err := fmt.Fprintln(w, r)
	return n + int64(written), err
}

// String sums up in one line.
func (r *Report) String() string {
	verb := "deleted"
	if r.DryRun {
		verb = "would delete"
	}
	s := fmt.Sprintf("%s %d paths and %d bytes, kept %d paths and %d bytes", verb, r.Deleted, r.Freed, r.Kept, r.After)
	if r.Excess > 0 {
		s += fmt.Sprintf("; pins and leases hold %d bytes too many", r.Excess)
	}
	if r.Failed > 0 {
		s += fmt.Sprintf("; %d could not be removed", r.Failed)
	}
	return s
}

// note writes down what became of a victim.
func (r *Report) note(n int32, o catalog.Outcome) {
	d := &r.Paths[n]
	d.noted = true
	r.Freed += o.Freed
	_, kept := errors.AsType[*catalog.KeptError](o.Err)
	switch {
	case errors.Is(o.Err, catalog.ErrNotFound): // somebody else was quicker
		r.Deleted++
	case kept || errors.Is(o.Err, catalog.ErrUsed) || errors.Is(o.Err, catalog.ErrPublishing) ||
		errors.Is(o.Err, catalog.ErrDeleting):
		d.Kept, d.Reason, d.Err = true, Changed, o.Err
		r.Kept++
	case o.Err != nil || o.ArchiveErr != nil:
		d.Err = errors.Join(o.Err, o.ArchiveErr)
		r.Failed++
	default:
		r.Deleted++
	}
}

// unreached says of the victims that a collection did not come to that they are still there.
func (r *Report) unreached(cause error) {
	for i := range r.Paths {
		if d := &r.Paths[i]; !d.Kept && !d.noted {
			d.Kept, d.Reason, d.Err = true, Changed, cause
			r.Kept++
		}
	}
}

func (r *Report) firstFailure() error {
	for i := range r.Paths {
		if d := &r.Paths[i]; !d.Kept && d.Err != nil {
			return d.Err
		}
	}
	return nil
}
