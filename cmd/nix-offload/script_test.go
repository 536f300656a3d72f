package main_test

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"status": scriptStatus},
	})
}

// scriptStatus is `status N PROGRAM ARGS…`: the program must exit with this status.
func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM ARGS…")
	}
	err := ts.Exec(args[1], args[2:]...)
	status := "0"
	if err != nil {
		// exec.ExitError says "exit status N"
		status = err.Error()[len("exit status "):]
	}
	if status != args[0] {
		ts.Fatalf("%v exited with %s, not %s", args[1:], status, args[0])
	}
}
