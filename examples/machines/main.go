// Command machines checks a list of builders, Nix's or a .toml, and prints it as lines for Nix.
//
//	machines /etc/nix/machines
package main

import (
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/offload/machines"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: machines FILE")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(file string) error {
	list, err := machines.Read(file, nil)
	for i := range list {
		line, formatErr := machines.Format(&list[i])
		if formatErr != nil {
			err = errors.Join(err, formatErr)
			continue
		}
		fmt.Println(line)
	}
	return err // the machines without a fault are printed all the same
}
