package store_test

import (
	"context"
	"fmt"
	"log"

	"github.com/voidnxlab/nixtrap/store"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

func ExampleNewLayered() {
	near, far := &storetest.Memory{}, &storetest.Memory{}
	lib := far.Add("lib", storetest.Files{"lib": "code"})
	tool := near.Add("tool", storetest.Files{"bin": "#!/bin/sh"}, lib.StorePath)
	both, err := store.NewLayered([]store.Store{near}, []store.Store{far})
	if err != nil {
		log.Fatal(err)
	}
	closure, err := store.Closure(context.Background(), both, tool.StorePath)
	for _, info := range closure {
		fmt.Println(info.StorePath.Name())
	}
	fmt.Println(err)
	// Output:
	// lib
	// tool
	// <nil>
}
