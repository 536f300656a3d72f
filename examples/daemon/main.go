// Daemon tells in which protocol the Nix of a builder is spoken to, over OpenSSH's client.
//
//	daemon [USER@]HOST
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/daemon"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: daemon [USER@]HOST")
	}
	run := func(_ context.Context, command string, stderr io.Writer) (io.ReadWriteCloser, error) {
		return start(exec.Command("ssh", os.Args[1], command), stderr)
	}
	conn, protocol, err := daemon.Open(context.Background(), &offload.Machine{Name: os.Args[1]}, "", run)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(protocol)
}

// started is a command's standard input and output.
type started struct {
	io.Reader
	io.WriteCloser
}

func start(cmd *exec.Cmd, stderr io.Writer) (io.ReadWriteCloser, error) {
	cmd.Stderr = stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return started{out, in}, cmd.Start()
}
