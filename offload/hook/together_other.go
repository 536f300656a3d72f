//go:build !linux

package hook

import "syscall"

// dieTogether has nothing to offer here: a process sees the end of its files, and Nix kills the group.
func dieTogether() *syscall.SysProcAttr { return nil }
