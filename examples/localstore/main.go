// Command localstore writes the NAR of a store path of this machine to standard output, hash verified.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/localstore"
)

func main() {
	if err := dump(context.Background(), os.Stdout, os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func dump(ctx context.Context, w io.Writer, arg string) error {
	path, err := narinfo.ParseStorePath(arg)
	if err != nil {
		return err
	}
	s, err := localstore.Open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	info, err := s.Info(ctx, path.HashPart())
	if err != nil {
		return err
	}
	r, err := s.Open(ctx, info)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}
