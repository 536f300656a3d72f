// Command drv says what a derivation asks of a machine, and how much effort it seems to be.
//
//	drv /nix/store/…-hello-2.12.1.drv
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/offload/drv"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: drv FILE")
	}
	r, err := drv.Read(os.Args[1], "")
	if err != nil {
		log.Fatal(err)
	}
	class, signs := r.Classify(r.Prior(), 0)
	fmt.Println(r.Name, "for", r.System, "with", r.Features, "is", class, signs)
}
