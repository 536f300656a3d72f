// Command history prints what nix-output-monitor's build reports say of a package, and keeps them in a database.
//
//	history /tmp/history.db ~/.local/state/nix-output-monitor/build-reports.csv hello
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"

	"github.com/voidnxlab/nixtrap/offload"
	"github.com/voidnxlab/nixtrap/offload/history"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: history FILE REPORTS NAME")
	}
	if err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, file, reports, name string) (err error) {
	d, err := history.Open(ctx, file, &history.Options{Log: slog.Default()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	f, err := os.Open(reports)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := d.SeedReports(ctx, f, func(host string) string { return host })
	if err != nil {
		return err
	}
	r := &offload.Request{Name: name, Stem: name, System: "x86_64-linux"}
	for machine, speed := range d.Speeds(ctx) {
		e := d.Estimate(ctx, r, machine)
		fmt.Printf("%s at speed %.2f: %.0f s, by %d builds (%s)\n", machine, speed, e.P50, e.Samples, e.Source)
	}
	fmt.Println(n, "builds are new")
	return nil
}
