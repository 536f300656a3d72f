// Shootout measures Nix binary cache servers side by side: narserved, nginx over flat caches, and others that one has.
//
// Run it in the repository: go run ./bench/shootout. docs/benchmarks.md says what is measured, and how to read it.
package main

import "github.com/voidnxlab/nixtrap/bench/internal/program"

func main() { program.Main("shootout", run) }
