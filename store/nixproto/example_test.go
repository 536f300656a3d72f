package nixproto_test

import (
	"context"
	"log"
	"net"

	"github.com/voidnxlab/nixtrap/store/nixproto"
)

// A server that stock Nix reaches over a unix socket, in front of the machine's own daemon: it sees the log of each build.
func ExampleServe() {
	listener, err := net.Listen("unix", "/run/front.sock")
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			err := nixproto.Serve(context.Background(), conn, func(ctx context.Context, s *nixproto.Session) (nixproto.Handler, error) {
				return nixproto.Dial(ctx, "", &nixproto.Options{OnEvent: func(ev nixproto.Event) {
					if line, ok := ev.LogLine(); ok {
						log.Print(line)
					}
					s.Send(ev)
				}})
			}, &nixproto.ServerOptions{Trust: nixproto.NotTrusted})
			if err != nil {
				log.Print(err)
			}
		}()
	}
}
