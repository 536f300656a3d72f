// Command s3 puts what it reads into an S3-compatible bucket, or gets what is there:
//
//	s3 's3://BUCKET?endpoint=HOST:PORT' put KEY <FILE
//	s3 's3://BUCKET?endpoint=HOST:PORT' get KEY >FILE
//
// Credentials are those of the environment, as for any program that uses AWS.
package main

import (
	"context"
	"io"
	"log"
	"os"

	"github.com/voidnxlab/nixtrap/store/bucketstore"
	"github.com/voidnxlab/nixtrap/store/bucketstore/s3"
)

func main() {
	if len(os.Args) != 4 || os.Args[2] != "put" && os.Args[2] != "get" {
		log.Fatal("usage: s3 URL put|get KEY")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url, verb, key string) error {
	options, err := s3.ParseURL(url)
	if err != nil {
		return err
	}
	bucket, err := s3.Open(ctx, options)
	if err != nil {
		return err
	}
	defer bucket.Close()
	if verb == "get" {
		return get(ctx, bucket, key)
	}
	_, err = bucket.Put(ctx, key, os.Stdin, -1)
	return err
}

func get(ctx context.Context, files bucketstore.Files, key string) error {
	file, err := files.Open(ctx, key)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(os.Stdout, file)
	return err
}
