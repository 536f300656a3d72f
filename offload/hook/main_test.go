package hook_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/voidnxlab/nixtrap/offload/hook"
)

// TestMain makes this binary a build-remote for the tests, which behaves as a variable says.
func TestMain(m *testing.M) {
	if behaviour := os.Getenv("HOOK_TEST_REMOTE"); behaviour != "" {
		os.Exit(fakeRemote(behaviour))
	}
	os.Exit(m.Run())
}

// fakeRemote shows what it was told, on the way that replies go.
func fakeRemote(behaviour string) int {
	r := hook.NewReader(bufio.NewReader(os.Stdin))
	settings, err := r.Settings()
	if err != nil {
		return 90
	}
	for {
		try, err := r.Next()
		if errors.Is(err, io.EOF) {
			return 0
		}
		if err != nil {
			return 91
		}
		switch behaviour {
		case "accept", "fail":
			builders, _ := settings.Lookup("builders")
			fmt.Fprintf(os.Stderr, "connecting\n# accept\n")
			fmt.Fprintf(os.Stdout, "stock name\n")
			build, err := r.Build()
			if err != nil {
				return 92
			}
			fmt.Fprintf(os.Stderr, "builders %q, try %s, %d inputs, outputs %v, args %q\n",
				builders, try.Drv, len(build.Inputs), build.Outputs, os.Args)
			if behaviour == "fail" {
				return 100
			}
			return 0
		case "crash":
			return 1
		case "hang":
			time.Sleep(time.Hour)
		case "crash later":
			fmt.Fprintf(os.Stderr, "# accept\nstock name\n")
			process, _ := os.FindProcess(os.Getpid())
			_ = process.Kill()
			time.Sleep(time.Hour)
		case "endless line":
			for {
				fmt.Fprint(os.Stderr, "# accept")
			}
		case "decline-permanently":
			fmt.Fprintf(os.Stderr, "# decline-permanently\n")
			return 0
		default:
			fmt.Fprintf(os.Stderr, "# %s\n", behaviour)
		}
	}
}
