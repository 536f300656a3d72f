//go:build !linux

package pgtest

import "os/exec"

// runTied runs cmd to its end.
func runTied(cmd *exec.Cmd, started, exited chan<- error) {
	err := cmd.Start()
	started <- err
	if err == nil {
		exited <- cmd.Wait()
	}
}
