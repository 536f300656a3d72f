// Command ssh asks a builder which worker protocol its Nix daemon speaks.
//
//	ssh ssh-ng://USER@HOST[:PORT] KEYFILE [BASE64-HOST-KEY]
//
// Without a host key ~/.ssh/known_hosts must know the builder. $SSH_AUTH_SOCK may name an agent.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/voidnxlab/nixtrap/offload/ssh"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: ssh URL KEYFILE [HOSTKEY]")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2], append(os.Args, "")[3]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, store, keyFile, hostKey string) error {
	host, notes, err := ssh.ParseHost(store, keyFile, hostKey)
	if err != nil {
		return err
	}
	for _, note := range notes {
		fmt.Fprintln(os.Stderr, note)
	}
	pool, err := ssh.NewPool(host, &ssh.Options{Agent: os.Getenv("SSH_AUTH_SOCK"), Handshake: 20 * time.Second})
	if err != nil {
		return err
	}
	defer pool.Close()
	session, err := pool.Open(ctx, host.Command, os.Stderr)
	if err != nil {
		return err
	}
	defer session.Close()
	defer context.AfterFunc(ctx, func() { session.Close() })() // Open's context does not end the session
	hello := binary.LittleEndian.AppendUint64(nil, 0x6e697863)
	if _, err := session.Write(hello); err != nil {
		return err
	}
	var answer [16]byte
	if _, err := io.ReadFull(session, answer[:]); err != nil {
		return err
	}
	version := binary.LittleEndian.Uint64(answer[8:])
	fmt.Printf("worker protocol %d.%d\n", version>>8, version&0xff)
	return nil
}
