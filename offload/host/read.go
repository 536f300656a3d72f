package host

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/voidnxlab/nixtrap/offload"
)

// Options say where this machine's readings are. Nil is the zero value.
type Options struct {
	// Root is the folder that stands for /; a test gives its own. Empty is "/".
	Root string
	// StoreDir is the store's folder, empty for /nix/store.
	StoreDir string
	// BuildDir is where builds work, empty for /nix/var/nix/builds if that is there, else /tmp.
	BuildDir string
}

// Read takes this machine's readings but for Nix's version, in a few milliseconds. Below another Root than "/" all come from files in it,
// but for the space that is left, which is that of its file system.
func Read(o *Options) offload.Readings {
	var c Options
	if o != nil {
		c = *o
	}
	if c.Root == "" {
		c.Root = "/"
	}
	if c.StoreDir == "" {
		c.StoreDir = "/nix/store"
	}
	if c.BuildDir == "" {
		c.BuildDir = "/tmp"
		if _, err := os.Stat(c.path("/nix/var/nix/builds")); err == nil {
			c.BuildDir = "/nix/var/nix/builds"
		}
	}
	r := offload.Readings{At: time.Now()}
	for section, file := range map[string]string{
		"cpu": "/proc/pressure/cpu", "memory": "/proc/pressure/memory", "io": "/proc/pressure/io",
		"loadavg": "/proc/loadavg", "meminfo": "/proc/meminfo",
	} {
		parseSection(&r, section, c.read(file))
	}
	r.Cores = c.cores()
	r.Store, r.Build = space(c.path(c.StoreDir)), space(c.path(c.BuildDir))
	r.Builds = c.builds()
	parsePower(&r, c.power())
	return r
}

func (o *Options) path(name string) string { return filepath.Join(o.Root, name) }

// read returns what a file has, "" if it may not be read.
func (o *Options) read(name string) string {
	f, err := os.Open(o.path(name))
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxOutput))
	if err != nil { // /proc/pressure may be there and not be readable
		return ""
	}
	return string(text)
}

// cores reads the processors that are online, such as "0-3,8".
func (o *Options) cores() *int {
	n := 0
	for part := range strings.SplitSeq(strings.TrimSpace(o.read("/sys/devices/system/cpu/online")), ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		a, err1 := strconv.Atoi(first)
		b, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || b < a || b > 1<<20 {
			if o.Root != "/" {
				return nil
			}
			return new(runtime.NumCPU())
		}
		n += b - a + 1
	}
	return &n
}

// builds counts the build users that own processes.
func (o *Options) builds() *int {
	processes, err := os.ReadDir(o.path("/proc"))
	if err != nil {
		return nil
	}
	names := make(map[string]string) // of build users, by number
	for line := range strings.Lines(o.read("/etc/passwd")) {
		if fields := strings.Split(line, ":"); len(fields) > 2 && isBuilder(fields[0]) {
			names[fields[2]] = fields[0]
		}
	}
	running := make(map[string]bool)
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		uid := processUser(o.read("/proc/" + p.Name() + "/status"))
		if names[uid] != "" || isBuilder(uid) {
			running[uid] = true
		}
	}
	return new(len(running))
}

func processUser(status string) string {
	_, rest, _ := strings.Cut(status, "\nUid:")
	return firstField(rest)
}

// power prints the supplies as the script does.
func (o *Options) power() string {
	var lines strings.Builder
	supplies, _ := filepath.Glob(o.path("/sys/class/power_supply/*"))
	for _, dir := range supplies {
		var words []string
		for _, name := range []string{"type", "online", "capacity", "scope", "status"} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			word := strings.TrimSpace(string(text))
			if err != nil || word == "" {
				word = "-"
			}
			words = append(words, word)
		}
		lines.WriteString(strings.Join(words, " ") + "\n")
	}
	return lines.String()
}
