package machines

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/voidnxlab/nixtrap/offload"
)

// DefaultFile is where Nix looks for machines if its builders setting is left alone.
const DefaultFile = "/etc/nix/machines"

const (
	maxText    = 1 << 20 // bytes of one file
	maxDepth   = 8       // files that include one another
	maxEntries = 10_000
)

// Options say how a list is read. Nil is the zero value.
type Options struct {
	// File is what errors call the text; empty is "builders".
	File string
	// System is the asking machine's, for machines without one; empty is that of this program.
	System string
	// Open opens files that are included; nil is os.Open. An error that is fs.ErrNotExist means no such file.
	Open func(name string) (io.ReadCloser, error)
}

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.File == "" {
		c.File = "builders"
	}
	if c.System == "" {
		c.System = ThisSystem()
	}
	if c.Open == nil {
		c.Open = func(name string) (io.ReadCloser, error) { return os.Open(name) }
	}
	return c
}

// ThisSystem returns Nix's name of the system that this program was built for, such as "x86_64-linux".
func ThisSystem() string {
	arch := runtime.GOARCH
	switch arch {
	case "amd64":
		arch = "x86_64"
	case "386":
		arch = "i686"
	case "arm64":
		arch = "aarch64"
	case "arm":
		arch = "armv7l"
	case "ppc64le":
		arch = "powerpc64le"
	}
	return arch + "-" + runtime.GOOS
}

// Read reads a file, of our own form if its name ends in .toml, otherwise of Nix's. Its name is the one in errors.
// An error that is fs.ErrNotExist says that there is none.
func Read(file string, o *Options) ([]offload.Machine, error) {
	c := o.withDefaults()
	c.File = file
	p := parser{Options: c}
	text, err := p.read(file)
	if err != nil {
		return nil, fmt.Errorf("machines: %w", err)
	}
	if strings.HasSuffix(file, ".toml") {
		return ParseTOML(text, &c)
	}
	return Parse(text, &c)
}

// Parse reads Nix's form: a builders setting, or a file's content. A nil Options reads as Nix does on this machine.
// Machines without a fault are returned beside the joined [*Error] values of the others.
func Parse(text string, o *Options) ([]offload.Machine, error) {
	p := parser{Options: o.withDefaults()}
	p.parse(text, p.File, 0)
	nameApart(p.machines)
	return p.machines, errors.Join(p.errs...)
}

type parser struct {
	Options
	machines []offload.Machine
	errs     []error
}

func (p *parser) parse(text, file string, depth int) {
	if len(text) > maxText {
		p.fail(&Error{File: file, Line: 1, Problem: "more than 1 MiB", Fix: "split the list"})
		return
	}
	n := 0
	for line := range strings.SplitSeq(text, "\n") {
		n++
		line, _, _ = strings.Cut(line, "#")
		for entry := range strings.SplitSeq(line, ";") {
			entry = strings.Trim(entry, space)
			switch {
			case entry == "":
			case len(p.machines)+len(p.errs) >= maxEntries:
				p.fail(&Error{File: file, Line: n, Problem: "too many machines", Fix: "keep to 10,000"})
				return
			case entry[0] == '@':
				p.include(strings.Trim(entry[1:], space), file, n, depth)
			default:
				p.machine(entry, file, n)
			}
		}
	}
}

const space = " \t\r\n" // Nix's white space

func (p *parser) fail(e *Error) { p.errs = append(p.errs, e) }

func (p *parser) include(name, file string, line, depth int) {
	if depth == maxDepth {
		p.fail(&Error{File: file, Line: line, Problem: fmt.Sprintf("@%s is included too deep", name), Fix: "does it include itself?"})
		return
	}
	text, err := p.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		p.fail(&Error{File: file, Line: line, Problem: err.Error(), Fix: "make it a readable file, or remove @" + name})
		return
	}
	p.parse(text, name, depth+1)
}

func (p *parser) read(name string) (string, error) {
	f, err := p.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText+1))
	return string(text), err
}

func (p *parser) machine(entry, file string, line int) {
	m, e := p.parseEntry(entry, file, line)
	if e != nil {
		p.fail(e)
		return
	}
	m.Source = fmt.Sprintf("%s:%d", file, line)
	p.machines = append(p.machines, m)
}

func (p *parser) parseEntry(entry, file string, line int) (offload.Machine, *Error) {
	var m offload.Machine
	columns := strings.FieldsFunc(entry, func(r rune) bool { return strings.ContainsRune(space, r) })
	column := func(n int) string { // "" for the default
		if n > len(columns) || columns[n-1] == "-" {
			return ""
		}
		return columns[n-1]
	}
	if column(1) == "" {
		return m, (&fault{"there is no store URI", uriFix}).at(file, line, 1)
	}
	if f := parseURI(&m, column(1)); f != nil {
		return m, f.at(file, line, 1)
	}
	m.Name = m.Address()
	m.Systems = []string{p.System}
	if s := column(2); s != "" {
		if m.Systems = list(s); len(m.Systems) == 0 {
			return m, (&fault{fmt.Sprintf("%q names no system", s), "write such as x86_64-linux, or - for this machine's"}).at(file, line, 2)
		}
	}
	if s := column(3); s != "" {
		m.Identity = s
	}
	m.MaxJobs = 1
	if s := column(4); s != "" {
		jobs, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 31)
		if err != nil {
			return m, (&fault{fmt.Sprintf("%q is no number of jobs", s), "write a whole number, or - for 1"}).at(file, line, 4)
		}
		m.MaxJobs = int(jobs)
	}
	var f *fault
	if m.SpeedFactor, f = parseSpeed(column(5)); f != nil {
		return m, f.at(file, line, 5)
	}
	m.Features, m.MandatoryFeatures = set(column(6)), set(column(7))
	if s := column(8); s != "" {
		key, err := decodeHostKey(s)
		if err != nil {
			return m, (&fault{err.Error(), hostKeyFix}).at(file, line, 8)
		}
		m.HostKey = key
	}
	return m, nil
}

func parseSpeed(s string) (float64, *fault) {
	if s == "" {
		return 1, nil
	}
	v, err := strconv.ParseFloat(s, 32)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || strings.ContainsAny(s, "xX_pP") {
		return 0, &fault{fmt.Sprintf("%q is no speed factor", s), "write a number such as 1 or 2.5, or - for 1"}
	}
	return checkSpeed(v)
}

func checkSpeed(v float64) (float64, *fault) {
	switch {
	case v < 0:
		return 0, &fault{fmt.Sprintf("the speed factor %v is negative", v), "write a number above 0"}
	case v == 0:
		return 1, nil
	}
	return v, nil
}

// list splits at commas. Nothing between two of them is nothing.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}

// set is a list in order without duplicates, and nil if empty.
func set(s string) []string { return sorted(list(s)) }

func sorted(words []string) []string {
	if len(words) == 0 {
		return nil
	}
	words = slices.Clone(words)
	slices.Sort(words)
	return slices.Compact(words)
}

// nameApart gives machines of one name (a host with a line for each of two systems, say) names of their own.
func nameApart(machines []offload.Machine) {
	taken := make(map[string]bool, len(machines))
	for i := range machines {
		taken[machines[i].Name] = true
	}
	seen := make(map[string]int)
	for i := range machines {
		name := machines[i].Name
		seen[name]++
		if seen[name] == 1 {
			continue
		}
		for n := seen[name]; ; n++ {
			unique := fmt.Sprintf("%s#%d", name, n)
			if !taken[unique] {
				taken[unique], machines[i].Name = true, unique
				break
			}
		}
	}
}

// Format returns the machine as a line of Nix's form, which [Parse] reads back except for what only TOML has.
// The machine must be one that a parser returned: a word with white space, a comma or a semicolon has no such form,
// and gives an error. For Nix before 2.20 a speed factor must be whole.
func Format(m *offload.Machine) (string, error) {
	if m.Local {
		return "", errors.New("machines: the local machine is no builder")
	}
	params := maps.Clone(m.Params)
	if params == nil {
		params = make(map[string]string)
	}
	if len(m.RemoteProgram) > 0 {
		params["remote-program"] = strings.Join(m.RemoteProgram, " ")
	}
	bare := *m
	bare.Params = nil
	uri := bare.URI()
	separator := "?"
	for _, key := range slices.Sorted(maps.Keys(params)) {
		uri += separator + escape(key) + "=" + escape(params[key])
		separator = "&"
	}
	hostKey := ""
	if m.HostKey != "" {
		hostKey = base64.StdEncoding.EncodeToString([]byte(m.HostKey))
	}
	columns := []string{
		uri, strings.Join(m.Systems, ","), m.Identity, strconv.Itoa(m.MaxJobs),
		strconv.FormatFloat(max(m.SpeedFactor, 0), 'g', -1, 32),
		strings.Join(m.Features, ","), strings.Join(m.MandatoryFeatures, ","), hostKey,
	}
	for i, c := range columns {
		if hasSpace(c) || strings.ContainsAny(c, ";#") {
			return "", fmt.Errorf("machines: %s: column %d (%s): %q can't stand in a line", m.Name, i+1, columnNames[i+1], c)
		}
		if c == "" {
			columns[i] = "-"
		}
	}
	return strings.Join(columns, " "), nil
}

// escape writes spaces as %20, for Nix takes a plus sign as itself.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
