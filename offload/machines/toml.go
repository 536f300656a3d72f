package machines

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/signing"
)

const tomlKeys = "the keys of a machine are in the documentation of package offload/machines"

// ParseTOML reads our own form, which needs no more than a table [[machine]] with a uri.
// Machines without a fault are returned beside the joined [*Error] values of the others; text that is not TOML gives none.
func ParseTOML(text string, o *Options) ([]offload.Machine, error) {
	t := tomlParser{parser: parser{Options: o.withDefaults()}}
	if len(text) > maxText {
		return nil, &Error{File: t.File, Line: 1, Problem: "more than 1 MiB", Fix: "split the list"}
	}
	var document map[string]any
	if _, err := toml.Decode(text, &document); err != nil {
		e := &Error{File: t.File, Line: 1, Problem: err.Error(), Fix: "mend the file's syntax"}
		var syntax toml.ParseError
		if errors.As(err, &syntax) {
			e.Line, e.Problem = max(syntax.Position.Line, 1), syntax.Message
		}
		return nil, e
	}
	t.lines = findKeys(text)
	for _, key := range slices.Sorted(maps.Keys(document)) {
		if key != "machine" {
			t.fail(t.lines.error(t.File, -1, key, "unknown key", "keys stand in tables [[machine]]"))
		}
	}
	tables, ok := document["machine"].([]map[string]any)
	if !ok && document["machine"] != nil {
		t.fail(t.lines.error(t.File, -1, "machine", "not a list of tables", "write [[machine]] above each machine"))
	}
	for i, table := range tables {
		t.table(i, table)
	}
	nameApart(t.machines)
	return t.machines, errors.Join(t.errs...)
}

type tomlParser struct {
	parser
	lines keyLines
}

func (t *tomlParser) table(i int, table map[string]any) {
	m := offload.Machine{MaxJobs: 1, SpeedFactor: 1, Systems: []string{t.System}}
	faults := len(t.errs)
	uri, _ := table["uri"].(string)
	if uri == "" {
		t.fail(t.lines.error(t.File, i, "uri", "there is no store URI", uriFix))
	} else if f := parseURI(&m, uri); f != nil {
		t.fail(t.lines.error(t.File, i, "uri", f.problem, f.fix))
	}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		if f := setKey(&m, key, table[key]); f != nil {
			t.fail(t.lines.error(t.File, i, key, f.problem, f.fix))
		}
	}
	if m.Name == "" {
		m.Name = m.Address()
	}
	if len(t.errs) == faults {
		m.Source = fmt.Sprintf("%s:%d", t.File, t.lines.tables[i].header)
		t.machines = append(t.machines, m)
	}
}

// setKey sets one field. The URI is parsed before, so that the other keys override it.
func setKey(m *offload.Machine, key string, value any) (f *fault) {
	switch key {
	case "uri":
		_, f = wantString(value)
	case "name":
		m.Name, f = wantWord(value)
	case "user":
		m.User, f = wantWord(value)
	case "identity":
		m.Identity, f = wantString(value)
	case "agent":
		m.Agent, f = wantString(value)
	case "host-key":
		m.HostKey, f = wantHostKey(value)
	case "remote-program":
		m.RemoteProgram, f = wantStrings(value)
	case "systems":
		m.Systems, f = wantWords(value)
		if f == nil && len(m.Systems) == 0 {
			f = &fault{"names no system", "write such as [\"x86_64-linux\"], or leave the key out"}
		}
	case "features":
		m.Features, f = wantSet(value)
	case "mandatory-features":
		m.MandatoryFeatures, f = wantSet(value)
	case "tags":
		m.Tags, f = wantSet(value)
	case "trusted-keys":
		m.TrustedKeys, f = wantKeys(value)
	case "max-jobs":
		m.MaxJobs, f = wantInt(value, 0, math.MaxInt32)
	case "port":
		m.Port, f = wantInt(value, 1, 65535)
	case "speed-factor":
		if m.SpeedFactor, f = wantNumber(value); f == nil {
			m.SpeedFactor, f = checkSpeed(m.SpeedFactor)
		}
	case "weight":
		if m.Weight, f = wantNumber(value); f == nil && m.Weight <= 0 {
			f = &fault{"is not above 0", "write 2 for a machine that is twice as welcome, and drained = true for one that is not"}
		}
	case "memory-limit":
		m.MemoryLimit, f = wantSize(value)
	case "memory-reserve":
		m.MemoryReserve, f = wantSize(value)
	case "drained":
		var ok bool
		if m.Drained, ok = value.(bool); !ok {
			f = &fault{"is no boolean", "write true or false"}
		}
	default:
		f = &fault{"unknown key", tomlKeys}
	}
	return f
}

func wantString(value any) (string, *fault) {
	s, ok := value.(string)
	if !ok || s == "" || strings.ContainsAny(s, "\x00\r\n") {
		return "", &fault{"is no text of one line", "write it in quotes"}
	}
	return s, nil
}

func wantWord(value any) (string, *fault) {
	s, f := wantString(value)
	if f == nil && (hasSpace(s) || strings.ContainsAny(s, ",;")) {
		f = &fault{fmt.Sprintf("%q is no single word", s), "leave out white space, commas and semicolons"}
	}
	return s, f
}

func wantStrings(value any) (words []string, f *fault) {
	items, ok := value.([]any)
	if !ok {
		return nil, &fault{"is no list", "write [\"…\", \"…\"]"}
	}
	for _, item := range items {
		s, f := wantString(item)
		if f != nil {
			return nil, f
		}
		words = append(words, s)
	}
	return words, nil
}

func wantWords(value any) ([]string, *fault) {
	words, f := wantStrings(value)
	for _, w := range words {
		if _, f := wantWord(w); f != nil {
			return nil, f
		}
	}
	return words, f
}

func wantSet(value any) ([]string, *fault) {
	words, f := wantWords(value)
	return sorted(words), f
}

func wantKeys(value any) ([]string, *fault) {
	keys, f := wantWords(value)
	for _, k := range keys {
		if _, err := signing.ParsePublicKey(k); err != nil {
			return nil, &fault{err.Error(), "write a public key, NAME:BASE64, as in trusted-public-keys"}
		}
	}
	return keys, f
}

// wantHostKey takes a line as in known_hosts, with or without the host's name left out, or Nix's base64 of it.
func wantHostKey(value any) (string, *fault) {
	s, f := wantString(value)
	if f != nil {
		return "", f
	}
	if strings.Contains(strings.TrimSpace(s), " ") {
		return strings.TrimSpace(s), nil
	}
	key, err := decodeHostKey(s)
	if err != nil || !strings.Contains(key, " ") {
		return "", &fault{fmt.Sprintf("%q is no host key", s), "write such as \"ssh-ed25519 AAAA…\", from /etc/ssh/ssh_host_ed25519_key.pub"}
	}
	return key, nil
}

func wantInt(value any, least, most int64) (int, *fault) {
	n, ok := value.(int64)
	if !ok || n < least || n > most {
		return 0, &fault{fmt.Sprintf("%v is no whole number from %d to %d", value, least, most), "write one, without quotes"}
	}
	return int(n), nil
}

func wantNumber(value any) (float64, *fault) {
	switch n := value.(type) {
	case int64:
		return float64(n), nil
	case float64:
		if !math.IsNaN(n) && !math.IsInf(n, 0) {
			return n, nil
		}
	}
	return 0, &fault{fmt.Sprintf("%v is no number", value), "write such as 2 or 1.5, without quotes"}
}

func wantSize(value any) (int64, *fault) {
	switch n := value.(type) {
	case int64:
		if n >= 0 {
			return n, nil
		}
	case string:
		if size, ok := parseSize(n); ok {
			return size, nil
		}
	}
	return 0, &fault{fmt.Sprintf("%v is no size", value), "write such as \"24GiB\", \"500MB\" or a number of bytes"}
}

func parseSize(s string) (int64, bool) {
	digits := strings.TrimRight(s, "KMGTiB ")
	n, err := strconv.ParseFloat(digits, 64)
	factor := 1.0
	switch strings.TrimSpace(s[len(digits):]) {
	case "", "B":
	case "K", "KiB":
		factor = 1 << 10
	case "M", "MiB":
		factor = 1 << 20
	case "G", "GiB":
		factor = 1 << 30
	case "T", "TiB":
		factor = 1 << 40
	case "KB":
		factor = 1e3
	case "MB":
		factor = 1e6
	case "GB":
		factor = 1e9
	case "TB":
		factor = 1e12
	default:
		return 0, false
	}
	if err != nil || n < 0 || math.IsNaN(n) || n*factor >= math.MaxInt64 {
		return 0, false
	}
	return int64(n * factor), true
}
