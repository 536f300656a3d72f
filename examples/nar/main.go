// Command nar lists the archive on standard input, or with an argument archives that path to standard output.
//
//	nar /etc/hosts | nar
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/nar"
)

func main() {
	if len(os.Args) > 1 {
		if err := nar.Pack(context.Background(), os.Stdout, os.Args[1]); err != nil {
			log.Fatal(err)
		}
		return
	}
	for r := nar.NewReader(os.Stdin); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%-9v %10d  ./%s\n", h.Type, h.Size, h.Path)
	}
}
