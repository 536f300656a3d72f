package proc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// Machine describes where a benchmark ran. Fields that can't be known are "".
type Machine struct {
	Date   string
	CPU    string
	Cores  int
	Memory string
	Kernel string
	Go     string
	Nginx  string
	Nix    string
	Commit string // of this repository, with "+" behind it if files were changed
}

// Describe asks the machine. nginx is the path of its program.
func Describe(ctx context.Context, nginx string) Machine {
	return Machine{
		Date:   time.Now().UTC().Format("2006-01-02 15:04 UTC"),
		CPU:    valueOf("/proc/cpuinfo", "model name"),
		Cores:  runtime.NumCPU(),
		Memory: valueOf("/proc/meminfo", "MemTotal"),
		Kernel: kernel(),
		Go:     runtime.Version(),
		Nginx:  strings.TrimPrefix(says(ctx, nginx, "-v"), "nginx version: "),
		Nix:    says(ctx, "nix", "--version"),
		Commit: says(ctx, "git", "describe", "--always", "--dirty=+"),
	}
}

// Lines returns the description as lines of "name: value".
func (m Machine) Lines() []string {
	return []string{
		"date: " + m.Date, "CPU: " + m.CPU, fmt.Sprintf("cores: %d", m.Cores), "memory: " + m.Memory,
		"kernel: " + m.Kernel, "Go: " + m.Go, "nginx: " + m.Nginx, "Nix: " + m.Nix, "commit: " + m.Commit,
	}
}

func kernel() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return runtime.GOOS + " " + strings.TrimSpace(string(release)) + " " + runtime.GOARCH
}

// valueOf returns what a file says of a name, "NAME : VALUE", the first time.
func valueOf(file, name string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if n, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(n) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func says(ctx context.Context, program string, args ...string) string {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return ""
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(line)
}
