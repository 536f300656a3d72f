package subcommand

import "errors"

// usageError is misuse of the command line or a configuration file.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Usage makes of an error one about how the program was called: its exit status is 2.
func Usage(err error) error { return usageError{err} }

// hinted is an error with advice on what to do about it.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }

// Hint adds advice to an error; nil stays nil.
func Hint(err error, advice string) error {
	if err == nil {
		return nil
	}
	return hinted{err, advice}
}

// Message is what a person is told of an error: the program's name, the error and, on a line of its own, the advice.
func Message(program string, err error) string {
	text := program + ": " + err.Error()
	if h, ok := errors.AsType[hinted](err); ok {
		text += "\nhint: " + h.hint
	}
	return text
}

// ExitStatus is 0 for success, 2 for misuse and 1 for any other error.
func ExitStatus(err error) int {
	if err == nil {
		return 0
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}
