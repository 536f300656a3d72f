// Doctor says why builds are not sent to the builders of /etc/nix/machines.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/voidnxlab/nixtrap/offload/doctor"
)

func main() {
	findings := doctor.Examine(context.Background(), &doctor.Options{Socket: "/run/nix-offload/coordinator.sock"})
	for _, f := range findings {
		fmt.Println(f.Grade, f.Machine, f.Check, f.Text, f.Fix)
	}
	if doctor.Sick(findings) {
		os.Exit(1)
	}
}
