package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/coordinator"
	"github.com/voidnxlab/nixtrap/offload/machines"
)

// here examines this machine.
type here struct {
	Options
	report
}

// machines reads the list of builders, and returns those without a fault.
func (h *here) machines() []offload.Machine {
	const check = "machines"
	file := h.MachinesFile
	if file == "" {
		file = machines.DefaultFile
	}
	list, err := machines.Read(file, nil)
	for _, fault := range faults(err) {
		h.add(Fault, check, fault.Error(), fault.Fix)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		h.add(Fault, check, "there is no "+file, "list the builders in it, a line each: ssh-ng://USER@HOST SYSTEM KEYFILE JOBS")
	case err != nil && faults(err) == nil:
		h.add(Fault, check, err.Error(), "")
	case len(list) == 0 && err == nil:
		h.add(Fault, check, file+" lists no builder", "list one a line: ssh-ng://USER@HOST SYSTEM KEYFILE JOBS")
	case err == nil:
		h.add(Good, check, fmt.Sprintf("%s lists %d builders", file, len(list)), "")
	}
	return list
}

// faults are those of a list of machines, which come joined.
func faults(err error) []*machines.Error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*machines.Error
		for _, e := range joined.Unwrap() {
			all = append(all, faults(e)...)
		}
		return all
	}
	if fault, ok := errors.AsType[*machines.Error](err); ok {
		return []*machines.Error{fault}
	}
	return nil
}

// settings are those of a Nix that matter here.
type settings struct {
	BuildHook      setting[[]string] `json:"build-hook"`
	Builders       setting[string]   `json:"builders"`
	System         setting[string]   `json:"system"`
	ExtraPlatforms setting[[]string] `json:"extra-platforms"`
	SystemFeatures setting[[]string] `json:"system-features"`
}

type setting[T any] struct {
	Value T `json:"value"`
}

// UnmarshalJSON takes a list for a text too: build-hook is the one or the other, as the release has it.
func (s *setting[T]) UnmarshalJSON(data []byte) error {
	var raw struct{ Value json.RawMessage }
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	if err := json.Unmarshal(raw.Value, &s.Value); err == nil {
		return nil
	}
	var text string
	if err := json.Unmarshal(raw.Value, &text); err != nil {
		return err
	}
	words, err := json.Marshal(strings.Fields(text))
	if err != nil {
		return err
	}
	return json.Unmarshal(words, &s.Value)
}

// showConfig are the arguments that have a Nix print its settings, by the newer name and the older one.
func showConfig() [][]string {
	features := []string{"--extra-experimental-features", "nix-command"}
	return [][]string{append(slices.Clone(features), "config", "show", "--json"), append(features, "show-config", "--json")}
}

// nix examines this machine's Nix, and whether it asks us.
func (h *here) nix(ctx context.Context) {
	const check = "nix"
	program := h.Nix
	if program == "" {
		program = "nix"
	}
	version, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		h.add(Fault, check, fmt.Sprintf("%s --version: %v", program, err), "install Nix, or put it on PATH")
		return
	}
	words := strings.Fields(string(version))
	release := words[len(words)-1]
	h.add(Good, check, strings.TrimSpace(string(version)), "")
	var s settings
	for _, args := range showConfig() {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Env = append(os.Environ(), h.daemonEnviron()...)
		var text []byte
		if text, err = cmd.Output(); err == nil {
			err = json.Unmarshal(text, &s)
		}
		if err == nil {
			break
		}
	}
	if err != nil {
		h.add(Warning, check, fmt.Sprintf("the settings of Nix can't be read: %v", err), "")
		return
	}
	h.hook(release, &s)
}

// daemonEnviron is what the environment of nix-daemon says of its settings.
func (h *here) daemonEnviron() []string {
	if h.Environ != nil {
		return configOf(h.Environ)
	}
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || string(bytes.TrimSpace(comm)) != "nix-daemon" {
			continue
		}
		if text, err := os.ReadFile(filepath.Join(filepath.Dir(name), "environ")); err == nil {
			return configOf(strings.Split(string(text), "\x00"))
		}
	}
	return nil // this process's own is inherited
}

func configOf(environ []string) []string {
	var config []string
	for _, line := range environ {
		if strings.HasPrefix(line, "NIX_CONFIG=") || strings.HasPrefix(line, "NIX_USER_CONF_FILES=") {
			config = append(config, line)
		}
	}
	return config
}

const (
	hookName = "nix-offload-hook"
	shimName = "nix-offload-shim"
	program  = "nix-offload"
)

// hook examines whether Nix asks us.
func (h *here) hook(release string, s *settings) {
	const check = "hook"
	words := s.BuildHook.Value
	if strings.Contains(s.Builders.Value, shimName) || strings.Contains(s.Builders.Value, program+"%20shim") {
		h.add(Good, check, "Nix has the shim among its builders", "")
		return
	}
	set := "build-hook = /PATH/nix-offload hook"
	old := before(release, 2, 17)
	if old {
		set = "build-hook = /PATH/" + hookName + " (a symlink to nix-offload)"
	}
	place := "in nix.conf"
	if deaf := !before(release, 2, 25) && before(release, 2, 34); deaf {
		place = "in nix-daemon's environment, as NIX_CONFIG (this Nix ignores it in nix.conf)"
	}
	base := ""
	if len(words) > 0 {
		base = filepath.Base(words[0])
	}
	switch {
	case base != hookName && base != program:
		h.add(Fault, check, fmt.Sprintf("the build-hook of Nix %s is %q: it does not ask nix-offload", release, strings.Join(words, " ")),
			"set "+place+": "+set)
	case base == program && old:
		h.add(Fault, check, fmt.Sprintf("Nix %s takes a build-hook without arguments alone, and %q has some", release, strings.Join(words, " ")),
			"set "+place+": "+set)
	case base == program && !slices.Contains(words, "hook"):
		h.add(Fault, check, fmt.Sprintf("the build-hook %q lacks the word hook", strings.Join(words, " ")), "set "+place+": "+set)
	default:
		info, err := os.Stat(words[0])
		switch {
		case err != nil:
			h.add(Fault, check, fmt.Sprintf("the build-hook: %v", err), "install nix-offload there, or set "+place+": "+set)
		case info.IsDir() || info.Mode()&0o111 == 0:
			h.add(Fault, check, fmt.Sprintf("the build-hook %s may not be executed", words[0]), "chmod 755 "+words[0])
		default:
			h.add(Good, check, "Nix asks "+strings.Join(words, " "), "")
		}
	}
}

// before tells whether a release such as "2.34.1pre…" is older than another.
func before(release string, major, minor int) bool {
	first, rest, _ := strings.Cut(release, ".")
	second, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(first)
	if err != nil {
		return false
	}
	b, _ := strconv.Atoi(second)
	return a < major || a == major && b < minor
}

// coordinator asks the coordinator.
func (h *here) coordinator(ctx context.Context, list []offload.Machine) {
	const check = "coordinator"
	s, err := coordinator.NewClient(h.Socket).Status(ctx)
	switch {
	case errors.Is(err, fs.ErrPermission):
		h.add(Fault, check, fmt.Sprintf("%s: %v", h.Socket, err), "ask as root, or as who runs the coordinator")
		return
	case err != nil:
		h.add(Fault, check, fmt.Sprintf("%s: %v", h.Socket, err),
			"start nix-offload coordinator, or name its socket with --socket; till then Nix's own formula decides")
		return
	}
	known := make(map[string]bool)
	for _, m := range s.Machines {
		known[m.Machine.URI()] = true
	}
	for _, m := range list {
		if !known[m.URI()] {
			h.add(Fault, check, fmt.Sprintf("the coordinator does not know %s", m.Name), "start it anew: it reads the list of builders when it starts")
			return
		}
	}
	h.add(Good, check, fmt.Sprintf("it answers at %s, in mode %s", h.Socket, s.Mode), "")
}
