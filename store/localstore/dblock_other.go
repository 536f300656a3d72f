//go:build !linux

package localstore

import "fmt"

// Without locks that belong to an open file description the database is not read: the daemon answers.
func lockShared(int) error { return fmt.Errorf("%w: it is read on Linux only", errDatabase) }

func unlock(int) {}
