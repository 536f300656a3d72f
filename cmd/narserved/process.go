package main

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
)

// process is what a command sees of the world around it.
type process struct {
	args           []string
	env            environ
	stdin          io.Reader
	stdout, stderr io.Writer
}

// name is the name that the program was called by.
func (p *process) name() string {
	if len(p.args) == 0 {
		return "narserved"
	}
	return filepath.Base(p.args[0])
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

// usageError is misuse of the command line or the configuration file.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// hinted is an error with advice on what to do about it.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }

// hint adds advice to an error; nil stays nil.
func hint(err error, advice string) error {
	if err == nil {
		return nil
	}
	return hinted{err, advice}
}

// message is what a person is told of an error: the error and, on a line of its own, the advice.
func message(err error) string {
	text := "narserved: " + err.Error()
	if h, ok := errors.AsType[hinted](err); ok {
		text += "\nhint: " + h.hint
	}
	return text
}

// exitStatus is 0 for success, 2 for misuse and 1 for any other error.
func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}
