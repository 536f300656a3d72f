package main_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// terminal opens a pseudo-terminal of 60 columns.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 60}))
	return master, slave
}

func TestPushShowsABarOnATerminal(t *testing.T) {
	u := startUploadServer(t)
	dir, paths := bucketOf(t, 3)
	master, slave := terminal(t)
	cmd := exec.CommandContext(t.Context(), "narserved", "push", "--to", u.URL, "--store", "file://"+dir,
		"--token-file", u.tokenFile(t), string(paths[2].info.StorePath))
	cmd.Stderr = slave
	require.NoError(t, cmd.Start())
	require.NoError(t, slave.Close())
	shown, _ := io.ReadAll(master) // ends with EIO once the other end is closed
	require.NoError(t, cmd.Wait(), "%s", shown)
	require.Regexp(t, `\r\[#+\] 100%  3 of 3 paths, \d+\.\d MB sent\x1b\[K\r\x1b\[K`, string(shown), "a bar, wiped at the end")
	require.NotContains(t, string(shown), "(1 of 3)", "no line for each path")
	require.Contains(t, string(shown), "pushed 3 of 3 paths to "+u.URL)
}
