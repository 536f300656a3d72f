//go:build !linux

package pgtest

import "os/exec"

// runTied runs cmd to its end.
func runTied(cmd *exec.Cmd, started chan<- error, exited chan<- struct{}) {
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait() // it is told to end by a signal, which is an error
	}
	close(exited)
}
