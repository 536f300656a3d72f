// Command offload says whether a machine builds for a system.
package main

import (
	"fmt"

	"github.com/voidnxlab/nixtrap/offload"
)

func main() {
	m := offload.Machine{Name: "big", Systems: []string{"x86_64-linux"}, MaxJobs: 4}
	fmt.Println(m.Builds("aarch64-linux", nil))
}
