package workload

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/voidnxlab/nixtrap/internal/debian"
)

// Closure makes store paths of n of the machine's Debian packages, with references as the packages depend, and a path
// that refers to all.
func (n *Nix) Closure(ctx context.Context, packages int) ([]Path, error) {
	expr, err := debian.ClosureExpression("/", packages)
	if err != nil {
		return nil, fmt.Errorf("workload: the closure is made of a Debian machine's packages: %w", err)
	}
	file := filepath.Join(n.Dir, "closure.nix")
	if err := os.WriteFile(file, []byte(expr), 0o644); err != nil {
		return nil, err
	}
	top, err := n.run(ctx, "nix-build", file, "-A", "top", "--no-out-link")
	if err != nil {
		return nil, err
	}
	return n.closure(ctx, top)
}

// SmallFiles makes a path of files of 0 to 8 KiB, 500 a folder.
func (n *Nix) SmallFiles(ctx context.Context, files int) (Path, error) {
	name := fmt.Sprintf("small-files-%d-1", files)
	return n.add(ctx, name, func(dir string) error { return writeSmallFiles(dir, files) })
}

func writeSmallFiles(dir string, files int) error {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range files {
		folder := filepath.Join(dir, fmt.Sprintf("%03d", i/500))
		if i%500 == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		name := filepath.Join(folder, fmt.Sprintf("file-%05d", i))
		if err := os.WriteFile(name, text(random, random.IntN(8<<10+1)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// text is size bytes that compress about as source code does, to a third.
func text(random *rand.Rand, size int) []byte {
	b := make([]byte, 0, size+16)
	for len(b) < size {
		if len(b) > 64 && random.IntN(2) == 0 { // something that was there before
			at := random.IntN(len(b) - 32)
			b = append(b, b[at:at+8+random.IntN(24)]...)
			continue
		}
		for range 2 + random.IntN(8) {
			b = append(b, byte('a'+min(random.IntN(26), random.IntN(26))))
		}
		b = append(b, " \n.()"[random.IntN(5)])
	}
	return b[:size]
}

// Big makes a path that is one file: the files of a closure one after another, up to size bytes.
func (n *Nix) Big(ctx context.Context, closure []Path, size int64) (Path, error) {
	return n.add(ctx, fmt.Sprintf("big-%d-%s", size, closure[len(closure)-1].HashPart()[:8]), func(file string) error {
		out, err := os.Create(file)
		if err != nil {
			return err
		}
		defer out.Close()
		if err := concatenate(out, closure, size); err != nil {
			return err
		}
		return out.Close()
	})
}

func concatenate(w io.Writer, closure []Path, size int64) error {
	paths := make([]string, 0, len(closure))
	for _, p := range closure {
		paths = append(paths, p.Path)
	}
	slices.Sort(paths)
	left := size
	for _, p := range paths {
		err := filepath.WalkDir(p, func(name string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || left == 0 {
				return err
			}
			n, err := appendFile(w, name, left)
			left -= n
			return err
		})
		if err != nil {
			return err
		}
	}
	if left > 0 {
		return fmt.Errorf("workload: the closure is %d bytes short of a file of %d", left, size)
	}
	return nil
}

func appendFile(w io.Writer, name string, limit int64) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.Copy(w, io.LimitReader(f, limit))
}

// Dump writes a path's NAR to a file below n.Dir and returns the file.
func (n *Nix) Dump(ctx context.Context, p Path) (string, error) {
	file := filepath.Join(n.Dir, "dump.nar")
	_, err := n.run(ctx, "sh", "-c", `exec nix-store --dump "$0" >"$1"`, p.Path, file)
	return file, err
}
