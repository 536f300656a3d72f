// Command signing signs standard input with the key in a file, which it makes if there is none.
//
//	echo hello | go run ./examples/signing ./secret.key
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/signing"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: signing KEYFILE")
	}
	key, err := signing.LoadSecretKey(os.Args[1], os.Getenv("CREDENTIALS_DIRECTORY"))
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = signing.GenerateKey("example-1"); err == nil {
			err = key.WriteFile(os.Args[1])
		}
	}
	if err != nil {
		log.Fatal(err)
	}
	message, err := io.ReadAll(os.Stdin)
	if err != nil {
		log.Fatal(err)
	}
	signature := key.Sign(message)
	fmt.Println("signature: ", signature)
	fmt.Println("public key:", key.Public())
	fmt.Println("verifies:  ", key.Public().Verify(message, signature))
}
