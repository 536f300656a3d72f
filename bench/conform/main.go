// Conform checks whether a server of a Nix binary cache, anybody's, does what clients rely on.
//
// Run it in the repository: go run ./bench/conform URL. docs/benchmarks.md says more.
package main

import "github.com/voidnxlab/nixtrap/bench/internal/program"

func main() { program.Main("conform", run) }
