package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test binary the commands that the tests start.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"narserved": main, "nix-serve": main, "narserved-post-build-hook": main})
}
