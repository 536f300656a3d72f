package upload_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"

	"github.com/voidnxlab/nixtrap/internal/shelf"
	"github.com/voidnxlab/nixtrap/store/httpstore"
	"github.com/voidnxlab/nixtrap/store/httpstore/upload"
	"github.com/voidnxlab/nixtrap/store/storetest"
)

func ExampleClient_Push() {
	server := httptest.NewServer(&shelf.Server{})
	defer server.Close()
	source := &storetest.Memory{}
	lib := source.Add("lib", storetest.Files{"lib.so": "…"})
	app := source.Add("app", storetest.Files{"bin/app": "…"}, lib.StorePath)

	cache, err := upload.New(server.URL, &upload.Options{Authorization: httpstore.Bearer("nixtrap_…")})
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()
	for range 2 {
		report, err := cache.Push(context.Background(), source, app.StorePath)
		fmt.Println(report.Paths, len(report.Pushed), err)
	}
	// Output:
	// 2 2 <nil>
	// 2 0 <nil>
}
