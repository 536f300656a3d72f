package hook

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// DefaultPatience is how long build-remote may take to reach a machine that a Decider has chosen.
const DefaultPatience = 20 * time.Second

// Stock says how to start the build-remote of the Nix that asks.
type Stock struct {
	// Program is a file with Nix's program `nix`, of which build-remote is a part. Empty means [FindNix].
	Program string
	// Verbosity is the last argument that Nix gave to the hook. Empty means "3".
	Verbosity string
	// Log and LogReader are the hook's files 4 and 5, see [LogFiles]. They are not closed. Nil is none.
	Log, LogReader *os.File
	// Patience is how long it may take until it replies about the machine of an answer; then it is killed and the build
	// declined. There is no such limit for [Plain]. 0 means DefaultPatience.
	Patience time.Duration
}

// FindNix finds the program of the Nix that has started this process: the parent's, however it was installed and even if
// it was replaced since, if that is Nix and not a program with Nix inside; else the one on PATH; else where installations
// have it.
func FindNix() (string, error) {
	exe := fmt.Sprintf("/proc/%d/exe", os.Getppid())
	if target, err := os.Readlink(exe); err == nil && isNix(target) {
		return exe, nil
	}
	for _, name := range []string{
		"nix", "/run/current-system/sw/bin/nix", "/nix/var/nix/profiles/default/bin/nix", "/usr/bin/nix", "/usr/local/bin/nix",
	} {
		if found, err := exec.LookPath(name); err == nil {
			return filepath.Abs(found)
		}
	}
	return "", errors.New("hook: no Nix: it is neither the parent process nor on PATH")
}

func isNix(exe string) bool {
	return filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == "nix"
}

// command prepares build-remote. All releases are it by the name that they are called by; to 2.8 there is no other way.
func (s *Stock) command() (*exec.Cmd, error) {
	program := s.Program
	if program == "" {
		found, err := FindNix()
		if err != nil {
			return nil, err
		}
		program = found
	}
	level := s.Verbosity
	if level == "" {
		level = "3"
	}
	return &exec.Cmd{
		Path:        program,
		Args:        []string{"build-remote", level},
		ExtraFiles:  []*os.File{nil, s.Log, s.LogReader}, // as 3, 4 and 5
		SysProcAttr: dieTogether(),
	}, nil
}

func (s *Stock) patience() time.Duration {
	if s.Patience == 0 {
		return DefaultPatience
	}
	return s.Patience
}
