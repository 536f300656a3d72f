package hook

import "syscall"

// dieTogether has the kernel kill a process when the thread that has started it ends.
func dieTogether() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
