// Command pullthrough downloads a path's archive from a remote binary cache to its standard output, and keeps a copy.
//
//	pullthrough https://cache.example.org cache.example.org-1:BASE64= HASHPART DIR > x.nar.xz
package main

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"path/filepath"

	"github.com/voidnxlab/nixtrap/narinfo"
	"github.com/voidnxlab/nixtrap/signing"
	"github.com/voidnxlab/nixtrap/store/httpstore"
	"github.com/voidnxlab/nixtrap/store/pullthrough"
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: pullthrough URL PUBLIC-KEY HASHPART DIR")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3], folder(os.Args[4])); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, url, key, hash string, dir folder) (err error) {
	keys, err := signing.ParseKeyring(key)
	if err != nil {
		return err
	}
	remote, err := httpstore.New(url, &httpstore.Options{TrustedKeys: keys})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remote.Close()) }()
	pulled, err := pullthrough.New(remote, dir, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pulled.Close()) }()
	info, err := pulled.Info(ctx, narinfo.HashPart(hash))
	if err != nil {
		return err
	}
	f, err := pulled.OpenArchive(ctx, info)
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, f)
	return errors.Join(err, f.Close())
}

// folder keeps each archive in a file. A bucket would make sure that it survives a crash, and keep the metadata too.
type folder string

// Receive implements [pullthrough.Receiver].
func (d folder) Receive(_ context.Context, info *narinfo.Info, archive io.Reader) (err error) {
	f, err := os.CreateTemp(string(d), "incoming-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = io.Copy(f, archive)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(string(d), info.StorePath.Base()))
}
