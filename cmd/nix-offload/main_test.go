package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this test binary the commands that the scripts start.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"nix-offload": main, "nix-offload-hook": main})
}
