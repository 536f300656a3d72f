// Package workload makes what the benchmarks serve: store paths in the machine's Nix store, and the flat binary caches
// that nix copy makes of them.
//
// Everything is made by the machine's own Nix, with deterministic content, and found again by later runs. It is
// the store that says what a path's NAR must be, not the servers under test.
package workload

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Path is a store path and what the store's database says of its NAR.
type Path struct {
	Path    string // /nix/store/HASHPART-NAME
	NarHash string // sha256:BASE32
	NarSize int64
}

// HashPart returns the 32 characters that caches know the path by.
func (p Path) HashPart() string { return filepath.Base(p.Path)[:32] }

// Nix runs the machine's Nix.
type Nix struct {
	// Dir is a folder for what is made beside store paths. It must exist.
	Dir string
}

// Available says why the workloads cannot be made here; nil if they can.
func Available() error {
	for _, program := range []string{"nix", "nix-store", "nix-build"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("workload: no %s here: install Nix (Debian: apt install nix-bin)", program)
		}
	}
	return nil
}

// run runs a program of Nix's and returns its stdout.
func (n *Nix) run(ctx context.Context, program string, args ...string) (string, error) {
	return runIn(ctx, n.Dir, program, args...)
}

// Copy is nix copy with a home of its own, so that it remembers of no cache what it has.
func (n *Nix) Copy(ctx context.Context, home string, args ...string) error {
	_, err := runIn(ctx, home, "nix", append([]string{"copy"}, args...)...)
	return err
}

func runIn(ctx context.Context, home, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(),
		"HOME="+home, "XDG_CACHE_HOME="+filepath.Join(home, "cache"),
		"NIX_CONFIG=sandbox = false\nexperimental-features = nix-command\nsubstituters =\n"+buildUsers())
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("workload: %s %.200s: %w\n%s", program, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// buildUsers lets root build without a group nixbld, where there is no daemon.
func buildUsers() string {
	if os.Geteuid() == 0 {
		return "build-users-group =\n"
	}
	return ""
}

// Infos asks the database about paths.
func (n *Nix) Infos(ctx context.Context, paths []string) ([]Path, error) {
	hashes, err := n.run(ctx, "nix-store", append([]string{"--query", "--hash"}, paths...)...)
	if err != nil {
		return nil, err
	}
	sizes, err := n.run(ctx, "nix-store", append([]string{"--query", "--size"}, paths...)...)
	if err != nil {
		return nil, err
	}
	h, s := strings.Fields(hashes), strings.Fields(sizes)
	if len(h) != len(paths) || len(s) != len(paths) {
		return nil, fmt.Errorf("workload: asked about %d paths, nix-store told of %d and %d", len(paths), len(h), len(s))
	}
	infos := make([]Path, len(paths))
	for i, p := range paths {
		size, err := strconv.ParseInt(s[i], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("workload: nix-store says the size of %s is %q", p, s[i])
		}
		infos[i] = Path{Path: p, NarHash: h[i], NarSize: size}
	}
	return infos, nil
}

// closure returns a path and all that it needs.
func (n *Nix) closure(ctx context.Context, top string) ([]Path, error) {
	paths, err := n.run(ctx, "nix-store", "--query", "--requisites", top)
	if err != nil {
		return nil, err
	}
	return n.Infos(ctx, strings.Fields(paths))
}

// add puts a file or folder that make writes into the store under its base name, once: name must change with content.
func (n *Nix) add(ctx context.Context, name string, write func(file string) error) (Path, error) {
	note := filepath.Join(n.Dir, name+".path")
	if text, err := os.ReadFile(note); err == nil {
		if infos, err := n.Infos(ctx, []string{string(text)}); err == nil {
			return infos[0], nil
		}
	}
	dir, err := os.MkdirTemp(n.Dir, "made-")
	if err != nil {
		return Path{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, name)
	if err := write(file); err != nil {
		return Path{}, err
	}
	path, err := n.run(ctx, "nix-store", "--add", file)
	if err != nil {
		return Path{}, err
	}
	infos, err := n.Infos(ctx, []string{path})
	if err != nil {
		return Path{}, err
	}
	return infos[0], os.WriteFile(note, []byte(path), 0o644)
}

// Flat copies the closures of paths into a flat binary cache below n.Dir, as nix copy makes it, and returns its folder.
// Paths that are there already stay. compression is nix copy's: none, zstd …
func (n *Nix) Flat(ctx context.Context, compression string, paths ...Path) (string, error) {
	dir := filepath.Join(n.Dir, "flat-"+compression)
	args := []string{"copy", "--to", "file://" + dir + "?compression=" + compression}
	for _, p := range paths {
		args = append(args, p.Path)
	}
	_, err := n.run(ctx, "nix", args...)
	return dir, err
}
