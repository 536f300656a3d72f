package pgtest

import (
	"os/exec"
	"runtime"
	"syscall"
)

// runTied runs cmd to its end; the kernel ends it when this process is killed, so that no test leaves a server behind.
func runTied(cmd *exec.Cmd, started chan<- error, exited chan<- struct{}) {
	runtime.LockOSThread() // the signal comes when the thread that started cmd ends
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait() // it is told to end by a signal, which is an error
	}
	close(exited)
}
