package pullthrough_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"testing"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/store/pullthrough"
)

// counter is a receiver that keeps nothing.
type counter struct{}

func (counter) Receive(_ context.Context, info *narinfo.Info, archive io.Reader) error {
	_, err := io.Copy(io.Discard, archive)
	fmt.Println(info.StorePath.Name(), "received:", err)
	return err
}

func ExampleNew() {
	remote := newRemote(&testing.B{})
	s, err := pullthrough.New(remote, counter{}, nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range remote.Entries() {
		r, err := s.Open(context.Background(), e.Info)
		if err != nil {
			log.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r)
		if err != nil || n != e.Info.NarSize {
			log.Fatal(n, err)
		}
		r.Close()
	}
	s.Close()
	// Unordered output:
	// lib received: <nil>
	// tool received: <nil>
}
