package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/bucketstore/catalog"
)

// runPinAdd makes a name pin a path.
func (p *process) runPinAdd(ctx context.Context, cmd *command, args []string) error {
	var cache string
	var expires lifetime
	c, words, err := p.bucketConfig(cmd, args, func(_ *Config, set *flag.FlagSet) {
		cacheFlag(set, &cache)
		set.Var(&expires, "expires", "`TIME` after which it is no longer kept, as 90d, 12w or 36h")
	})
	if err != nil {
		return err
	}
	if len(words) != 2 {
		return cmd.misuse("takes a NAME and a PATH")
	}
	if words[0] == "" || !printable(words[0]) {
		return usageError{hint(fmt.Errorf("pin: the name %q is empty or cannot be printed", words[0]), "use letters, digits and spaces")}
	}
	b, err := c.openOperated(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	hash, err := b.path(ctx, cache, words[1])
	if err != nil {
		return err
	}
	known, err := b.catalog.Path(ctx, cache, hash)
	if errors.Is(err, catalog.ErrNotFound) {
		return hint(fmt.Errorf("pin: %q is not in this cache", words[1]), "push it first; --cache names another cache")
	}
	if err != nil {
		return err
	}
	var until time.Time
	if expires > 0 {
		until = time.Now().Add(time.Duration(expires))
	}
	if err := b.catalog.Pin(ctx, cache, words[0], known.StorePath, p.operator(), until); err != nil {
		return err
	}
	fmt.Fprintf(p.stderr, "%q keeps %s and all that it refers to.\n", words[0], known.StorePath)
	return nil
}

// operator names who called this, for the record.
func (p *process) operator() string {
	for _, variable := range []string{"SUDO_USER", "USER", "LOGNAME"} {
		if name := p.env[variable]; name != "" && printable(name) {
			return name
		}
	}
	return "somebody"
}

// runPinRemove removes the pin of a name. The path goes with a later collection, if nothing else keeps it.
func (p *process) runPinRemove(ctx context.Context, cmd *command, args []string) error {
	var cache string
	c, words, err := p.bucketConfig(cmd, args, func(_ *Config, set *flag.FlagSet) { cacheFlag(set, &cache) })
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return cmd.misuse("takes one NAME")
	}
	b, err := c.openOperated(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	err = b.catalog.Unpin(ctx, cache, words[0])
	if errors.Is(err, catalog.ErrNotFound) {
		return hint(fmt.Errorf("pin: there is no pin %q", words[0]), "narserved pin list shows the names")
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stderr, "%q keeps nothing any more.\n", words[0])
	return nil
}

// runPinList prints pins as a table or as JSON.
func (p *process) runPinList(ctx context.Context, cmd *command, args []string) error {
	var cache string
	var history, asJSON bool
	c, words, err := p.bucketConfig(cmd, args, func(_ *Config, set *flag.FlagSet) {
		cacheFlag(set, &cache)
		set.BoolVar(&history, "history", false, "list what the names have ever pinned, the newest first")
		set.BoolVar(&asJSON, "json", false, "print an array of objects")
	})
	if err != nil {
		return err
	}
	if len(words) > 1 || len(words) == 1 && words[0] == "" {
		return cmd.misuse("takes one NAME or none")
	}
	b, err := c.openOperated(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	pins, err := b.pins(ctx, cache, words, history)
	if err != nil {
		return err
	}
	if asJSON {
		return p.printPinsJSON(pins)
	}
	if len(pins) == 0 {
		_, err := fmt.Fprintln(p.stderr, "There are no pins.")
		return err
	}
	return p.printPins(pins)
}

// pins are those of a cache, or of one name of it.
func (b *openedBucket) pins(ctx context.Context, cache string, names []string, history bool) ([]catalog.Pin, error) {
	if history {
		name := ""
		if len(names) > 0 {
			name = names[0]
		}
		return b.catalog.PinHistory(ctx, cache, name)
	}
	pins, err := b.catalog.Pins(ctx, cache)
	if err != nil || len(names) == 0 {
		return pins, err
	}
	var named []catalog.Pin
	for _, pin := range pins {
		if pin.Name == names[0] {
			named = append(named, pin)
		}
	}
	return named, nil
}

// pinState is what has become of a pin.
func pinState(pin catalog.Pin, now time.Time) string {
	switch {
	case !pin.Replaced.IsZero():
		return "replaced"
	case !pin.Expires.IsZero() && !pin.Expires.After(now):
		return "expired"
	}
	return "active"
}

func (p *process) printPins(pins []catalog.Pin) error {
	table := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tSTATE\tPATH\tBY\tCREATED\tEXPIRES\tREPLACED")
	for _, pin := range pins {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", pinName(pin.Name), pinState(pin, time.Now()), pin.Path, pin.By,
			timeText(pin.Created, ""), timeText(pin.Expires, "never"), timeText(pin.Replaced, "-"))
	}
	return table.Flush()
}

// pinName is quoted where it would not be one word.
func pinName(name string) string {
	if quoted := strconv.Quote(name); len(quoted) != len(name)+2 {
		return quoted
	}
	return name
}

func timeText(t time.Time, zero string) string {
	if t.IsZero() {
		return zero
	}
	return t.UTC().Format(time.RFC3339)
}

// pinJSON is a pin. Times are null where there is none.
type pinJSON struct {
	Name     string            `json:"name"`
	State    string            `json:"state"`
	Cache    string            `json:"cache"`
	Path     narinfo.StorePath `json:"path"`
	By       string            `json:"by"`
	Created  time.Time         `json:"created"`
	Expires  *time.Time        `json:"expires"`
	Replaced *time.Time        `json:"replaced"`
}

func (p *process) printPinsJSON(pins []catalog.Pin) error {
	var objects []pinJSON
	for _, pin := range pins {
		object := pinJSON{Name: pin.Name, State: pinState(pin, time.Now()), Cache: pin.Cache, Path: pin.Path, By: pin.By,
			Created: pin.Created.UTC()}
		if !pin.Expires.IsZero() {
			object.Expires = new(pin.Expires.UTC())
		}
		if !pin.Replaced.IsZero() {
			object.Replaced = new(pin.Replaced.UTC())
		}
		objects = append(objects, object)
	}
	return printObjects(p, objects)
}
