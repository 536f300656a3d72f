// Command narinfo says what a narinfo on standard input describes and which of the public keys given signed it.
//
//	go run ./examples/narinfo example-1:BASE64 </tmp/cache/HASHPART.narinfo
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
)

func main() {
	ring, err := signing.ParseKeyring(strings.Join(os.Args[1:], " "))
	if err != nil {
		log.Fatal(err)
	}
	text, err := io.ReadAll(io.LimitReader(os.Stdin, narinfo.MaxSize+1))
	if err != nil {
		log.Fatal(err)
	}
	info, err := narinfo.Parse(text)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %d bytes, %s, %d references\n", info.StorePath, info.NarSize, info.NarHash, len(info.References))
	key, ok := info.VerifiedBy(ring)
	if !ok {
		log.Fatal("no signature by a key given")
	}
	fmt.Println("signed by", key.Name())
}
