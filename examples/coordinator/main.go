// Coordinator says which of the builders in a file would get a derivation: coordinator MACHINES DRV.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/offload/coordinator"
	"github.com/voidnxlab/nixtrap/offload/drv"
	"github.com/voidnxlab/nixtrap/offload/machines"
	"github.com/voidnxlab/nixtrap/offload/shim"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: coordinator MACHINES DRV")
	}
	list, err := machines.Read(os.Args[1], nil)
	if err != nil {
		log.Fatal(err)
	}
	transport := &coordinator.SSH{}
	defer transport.Close()
	c, err := coordinator.New(coordinator.Options{Machines: list, Transport: transport})
	if err != nil {
		log.Fatal(err)
	}
	request, err := drv.Read(os.Args[2], "")
	if err != nil {
		log.Fatal(err)
	}
	ticket, err := c.Place(context.Background(), &shim.Wish{Request: request})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ticket.Machine.Name)
}
