package host

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/offload"
)

// MaxOutput is how many bytes of a script's output are read; more is not looked at.
const MaxOutput = 1 << 20

// Script returns a command for a POSIX shell that prints readings in well under a second.
// It needs no privileges, and writes nothing.
func Script() string {
	return `export LC_ALL=C
s() { echo "@@ $1"; }
f() { s "$1"; cat "$2" 2>/dev/null; }
for r in cpu memory io; do f $r /proc/pressure/$r; done
f loadavg /proc/loadavg
f meminfo /proc/meminfo
s cores; getconf _NPROCESSORS_ONLN 2>/dev/null || nproc 2>/dev/null
b=${TMPDIR:-/tmp}; [ -d /nix/var/nix/builds ] && b=/nix/var/nix/builds
s store; df -Pk /nix/store 2>/dev/null; df -Pi /nix/store 2>/dev/null
s build; df -Pk "$b" 2>/dev/null; df -Pi "$b" 2>/dev/null
s users; ps -A -o user= 2>/dev/null | sort -u
s power
v() { read -r x 2>/dev/null <"$1" || x=-; echo "${x:--}"; }
for d in /sys/class/power_supply/*; do
[ -d "$d" ] && echo $(v "$d/type") $(v "$d/online") $(v "$d/capacity") $(v "$d/scope") $(v "$d/status")
done
s nix; nix-store --version 2>/dev/null
s sysctl; [ -d /proc/sys ] || sysctl hw.memsize vm.loadavg 2>/dev/null
s end
`
}

// Parse reads what [Script] printed. The time is when it did, by this machine's clock.
func Parse(output string, at time.Time) offload.Readings {
	if len(output) > MaxOutput {
		output = output[:MaxOutput]
	}
	r := offload.Readings{At: at}
	ended := false
	sections(output, func(name, text string) {
		ended = ended || name == "end"
		parseSection(&r, name, text)
	})
	if !ended { // broken off: what was printed last may be half of a number
		return offload.Readings{At: at}
	}
	return r
}

// sections cuts the text at its separators. A section that is there twice is parsed twice.
func sections(output string, each func(name, text string)) {
	for block := range strings.SplitSeq("\n"+output, "\n@@ ") {
		name, text, _ := strings.Cut(block, "\n")
		each(strings.TrimSpace(name), text)
	}
}

func parseSection(r *offload.Readings, name, text string) {
	switch name {
	case "cpu":
		r.CPU = parsePressure(text)
	case "memory":
		r.Memory = parsePressure(text)
	case "io":
		r.IO = parsePressure(text)
	case "loadavg":
		r.Load1 = number(firstField(text))
	case "meminfo":
		parseMeminfo(r, text)
	case "cores":
		r.Cores = count(firstField(text))
	case "store":
		r.Store = parseSpace(text)
	case "build":
		r.Build = parseSpace(text)
	case "users":
		r.Builds = countBuilders(text)
	case "power":
		parsePower(r, text)
	case "nix":
		r.NixVersion = parseVersion(text)
	case "sysctl":
		parseSysctl(r, text)
	}
}

// parsePressure reads lines such as "some avg10=1.50 avg60=… total=…".
func parsePressure(text string) (p offload.Pressure) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		value, ok := strings.CutPrefix(fields[1], "avg10=")
		n := number(value)
		if !ok || n == nil || *n > 100 {
			continue
		}
		switch fields[0] {
		case "some":
			p.Some = n
		case "full":
			p.Full = n
		}
	}
	return p
}

func parseMeminfo(r *offload.Readings, text string) {
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if len(fields) != 2 || fields[1] != "kB" {
			continue
		}
		bytes := scaled(fields[0], 1024)
		switch name {
		case "MemTotal":
			r.MemoryTotal = bytes
		case "MemAvailable":
			r.MemoryAvailable = bytes
		case "SwapTotal":
			r.SwapTotal = bytes
		case "SwapFree":
			r.SwapFree = bytes
		}
	}
	if r.MemoryTotal != nil && *r.MemoryTotal == 0 {
		r.MemoryTotal = nil
	}
}

// parseSpace reads df's two tables: 1024-blocks, then inodes. Columns are counted from the right, from the percentage:
// a device's name may have spaces, and a mount point that has some comes after it.
func parseSpace(text string) (s offload.Space) {
	inodes := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "Filesystem") {
			inodes = strings.Contains(strings.ToLower(line), "ifree")
			continue
		}
		fields := strings.Fields(line)
		for i := len(fields) - 1; i >= 4; i-- {
			if !strings.HasSuffix(fields[i], "%") && fields[i] != "-" {
				continue
			}
			if inodes {
				if total := scaled(fields[i-3], 1); total != nil && *total > 0 { // btrfs says 0 of 0
					s.Inodes = scaled(fields[i-1], 1)
				}
			} else {
				s.Bytes = scaled(fields[i-1], 1024)
			}
			break
		}
	}
	return s
}

// countBuilders counts Nix's build users among users' names. Nobody at all is a ps that failed.
func countBuilders(text string) *int {
	n, any := 0, false
	for line := range strings.Lines(text) {
		name := strings.TrimSpace(line)
		any = any || name != ""
		if isBuilder(name) {
			n++
		}
	}
	if !any {
		return nil
	}
	return &n
}

// firstAutoUser is the least of the users that Nix allocates without names (auto-allocate-uids).
const (
	firstAutoUser = 872415232
	autoUsers     = 1 << 23
)

// isBuilder knows nixbld7, macOS' _nixbld7, guest build users of a number alone, and ps' shortening "nixbld1+".
func isBuilder(user string) bool {
	if rest, ok := strings.CutPrefix(strings.TrimPrefix(user, "_"), "nixbld"); ok {
		return strings.Trim(rest, "0123456789+") == ""
	}
	id, err := strconv.ParseUint(user, 10, 32)
	return err == nil && id >= firstAutoUser && id < firstAutoUser+autoUsers
}

// parsePower decides by batteries, for a dock's supply is one too: a machine is on battery if one of its own discharges.
// One of scope Device is a mouse's.
func parsePower(r *offload.Readings, text string) {
	onBattery := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[0] != "Battery" || fields[3] == "Device" {
			continue
		}
		onBattery = onBattery || fields[4] == "Discharging"
		if n := number(fields[2]); n != nil && *n <= 100 && (r.BatteryPercent == nil || *n < *r.BatteryPercent) {
			r.BatteryPercent = n
		}
	}
	r.OnBattery = &onBattery
}

// parseVersion takes the last word of "nix-store (Nix) 2.26.3".
func parseVersion(text string) string {
	fields := strings.Fields(text)
	if len(fields) == 0 || !strings.HasPrefix(text, "nix") {
		return ""
	}
	version := fields[len(fields)-1]
	if len(version) > 64 || version[0] < '0' || version[0] > '9' {
		return ""
	}
	return version
}

func parseSysctl(r *offload.Readings, text string) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "hw.memsize":
			r.MemoryTotal = scaled(strings.TrimSpace(value), 1)
		case "vm.loadavg":
			r.Load1 = number(firstField(strings.Trim(strings.TrimSpace(value), "{} ")))
		}
	}
}

func firstField(text string) string {
	if fields := strings.Fields(text); len(fields) > 0 {
		return fields[0]
	}
	return ""
}

// number returns a finite number that is not negative.
func number(s string) *float64 {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
		return nil
	}
	return &n
}

func count(s string) *int {
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 || n > 1<<20 {
		return nil
	}
	return &n
}

func scaled(s string, unit int64) *int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return nil
	}
	return new(n * unit)
}
