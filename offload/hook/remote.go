package hook

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// remote is a build-remote that runs.
type remote struct {
	cmd    *exec.Cmd
	in     *os.File      // its file 0
	out    *os.File      // its files 1 and 2
	lines  *bufio.Reader // of out
	exited chan struct{} // closed when it has, and cmd.ProcessState is set

	rest chan io.Reader // what to feed it after it has accepted
	fed  chan struct{}  // closed when all was fed
}

// start starts build-remote. The caller must call end.
func (s *session) start() (*remote, error) {
	cmd, err := s.opts.Stock.command()
	if err != nil {
		return nil, err
	}
	inReader, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = inReader.Close() }()
	out, outWriter, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	defer func() { _ = outWriter.Close() }()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inReader, outWriter, outWriter
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	child := &remote{
		cmd: cmd, in: in, out: out, lines: bufio.NewReaderSize(out, maxReply),
		exited: make(chan struct{}), rest: make(chan io.Reader, 1), fed: make(chan struct{}),
	}
	go func() {
		_ = cmd.Wait() // its outcome is cmd.ProcessState
		close(child.exited)
	}()
	go child.mind(s.parent)
	return child, nil
}

// mind kills build-remote when Nix is gone: nobody else would.
func (c *remote) mind(parent int) {
	ticker := time.NewTicker(grace)
	defer ticker.Stop()
	for {
		select {
		case <-c.exited:
			return
		case <-ticker.C:
			if os.Getppid() != parent {
				c.kill()
			}
		}
	}
}

// feed writes the preface and then what it gets from c.rest. A build-remote that reads no more must not block Nix.
func (c *remote) feed(preface []byte) {
	defer close(c.fed)
	defer func() { _ = c.in.Close() }()
	if _, err := c.in.Write(preface); err != nil {
		return
	}
	rest, ok := <-c.rest
	if !ok {
		return
	}
	if _, err := io.Copy(c.in, rest); err != nil {
		_, _ = io.Copy(io.Discard, rest)
	}
}

// maxReply bounds a line of build-remote's.
const maxReply = 64 << 10

// line reads a line of what build-remote says, without its end.
func (c *remote) line() ([]byte, error) {
	line, err := c.lines.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("hook: build-remote says more than %d bytes in a line", maxReply)
	case err != nil:
		return nil, errors.New("hook: build-remote has ended without a reply")
	}
	return bytes.Clone(line[:len(line)-1]), nil
}

// kill ends it at once. It may be called at any time.
func (c *remote) kill() { _ = c.cmd.Process.Kill() }

// end makes sure that it is over: a build-remote that has not accepted ends with its input.
func (c *remote) end() {
	close(c.rest)
	_ = c.in.Close()
	if !await(c.exited, grace) {
		c.kill()
		<-c.exited
	}
	_ = c.out.Close()
}

// await waits until done is closed, for a while only, and says whether it was.
func await(done <-chan struct{}, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
