package pgtest

import (
	"os/exec"
	"runtime"
	"syscall"
)

// runTied runs cmd to its end; the kernel ends it when this process is killed, so that no test leaves a server behind.
func runTied(cmd *exec.Cmd, started, exited chan<- error) {
	runtime.LockOSThread() // the signal comes when the thread that started cmd ends
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	err := cmd.Start()
	started <- err
	if err == nil {
		exited <- cmd.Wait()
	}
}
