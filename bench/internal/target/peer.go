package target

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// peers are the other cache servers that the kit knows how to start over the machine's own store.
var peers = map[string]func(ctx context.Context, program, addr, dir string) (*exec.Cmd, error){
	"harmonia":  harmonia,
	"nix-serve": nixServe,
}

// notOverStore are those that don't serve the machine's store but what was pushed or pulled into them.
var notOverStore = map[string]string{
	"attic": "it serves what was pushed into it: start atticd, `attic push` the closure, and say --peer attic=http://…/CACHE",
	"ncps":  "it serves what it pulled from an upstream: start it over one that has the closure, and say --peer ncps=http://…",
}

// Peer reads NAME=PROGRAM or NAME=URL, the latter for a server that runs already.
func Peer(spec string) (Program, error) {
	name, what, ok := strings.Cut(spec, "=")
	if !ok || name == "" || what == "" {
		return Program{}, fmt.Errorf("target: peer %q: want NAME=PROGRAM or NAME=http://HOST:PORT", spec)
	}
	if strings.HasPrefix(what, "http://") {
		return Program{Name: name, URL: what}, nil
	}
	if why, ok := notOverStore[name]; ok {
		return Program{}, fmt.Errorf("target: peer %s: %s", name, why)
	}
	start, ok := peers[name]
	if !ok {
		known := strings.Join(slices.Sorted(maps.Keys(peers)), ", ")
		return Program{}, fmt.Errorf("target: peer %q is none that can be started (%s); a running one is %s=http://HOST:PORT",
			name, known, name)
	}
	program, err := exec.LookPath(what)
	if err != nil {
		return Program{}, fmt.Errorf("target: peer %s: %w", name, err)
	}
	return Program{Name: name, Command: func(ctx context.Context, addr, dir string) (*exec.Cmd, error) {
		return start(ctx, program, addr, dir)
	}}, nil
}

// harmonia reads its settings from a file that an environment variable names. Without Accept-Encoding, which the client
// doesn't send, it serves NARs as they are. It is left its default of workers.
func harmonia(ctx context.Context, program, addr, dir string) (*exec.Cmd, error) {
	config := filepath.Join(dir, "harmonia.toml")
	if err := os.WriteFile(config, []byte(fmt.Sprintf("bind = %q\npriority = 30\n", addr)), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), "CONFIG_FILE="+config, "RUST_LOG=warn")
	return cmd, nil
}

// nixServe starts nix-serve or nix-serve-ng, which takes its flags. Both are left their defaults of workers.
func nixServe(ctx context.Context, program, addr, _ string) (*exec.Cmd, error) {
	host, port, _ := strings.Cut(addr, ":")
	cmd := exec.CommandContext(ctx, program, "--host", host, "--port", port)
	return cmd, nil
}
