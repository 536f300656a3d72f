package main

import (
	"errors"
	"io"
	"strings"

	"github.com/voidnxlab/nixtrap/internal/subcommand"
)

const programName = "nix-offload"

// process is what a command sees of the world around it.
type process struct {
	called         string // the name that the program was called by
	env            environ
	stdin          io.Reader
	stdout, stderr io.Writer
}

// called is the name that the program was called by.
func called(args []string) string {
	if len(args) == 0 {
		return programName
	}
	return args[0]
}

// environ is an environment. A variable that is not set reads as "".
type environ map[string]string

func parseEnviron(lines []string) environ {
	env := make(environ, len(lines))
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		env[name] = value
	}
	return env
}

// statusError ends the program with a status of its own. Whom it concerns has been told.
type statusError int

func (e statusError) Error() string { return "the build has failed" }

// message is what a person is told of an error, "" if nothing.
func message(err error) string {
	if _, told := errors.AsType[statusError](err); told || err == nil {
		return ""
	}
	return subcommand.Message(programName, err)
}

func exitStatus(err error) int {
	if status, ok := errors.AsType[statusError](err); ok {
		return int(status)
	}
	return subcommand.ExitStatus(err)
}
