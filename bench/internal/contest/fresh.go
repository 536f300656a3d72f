package contest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/voidnxlab/nixtrap/bench/internal/proc"
	"github.com/voidnxlab/nixtrap/bench/internal/rawhttp"
	"github.com/voidnxlab/nixtrap/bench/internal/target"
	"github.com/voidnxlab/nixtrap/bench/internal/workload"
)

// Fresh is a contender of First: a server that is started anew for each sample, with nothing of what it may have made or
// learned before, and asked for one path.
type Fresh struct {
	Program target.Program
	Path    workload.Path
}

// Name returns the program's name.
func (f *Fresh) Name() string { return f.Program.Name }

// Runs reports whether the pass is of first requests.
func (f *Fresh) Runs(p Pass) bool { return p.Kind == First }

// Prepare fetches the path once and checks it.
func (f *Fresh) Prepare(ctx context.Context) error {
	return f.with(ctx, func(server *target.Server, conn *rawhttp.Conn) error {
		return verify(ctx, conn, server.Path, f.Path)
	})
}

// Measure starts the server, asks for the narinfo, and then times the NAR's request.
func (f *Fresh) Measure(ctx context.Context, _ Pass) (Sample, error) {
	s := Sample{Requests: 1, Logical: f.Path.NarSize}
	err := f.with(ctx, func(server *target.Server, conn *rawhttp.Conn) error {
		info, _, err := getNarinfo(ctx, conn, server.Path+"/"+f.Path.HashPart()+".narinfo", f.Path)
		if err != nil {
			return err
		}
		before, err := proc.CPU(server.PID)
		if err != nil {
			return err
		}
		if err := s.fetch(ctx, conn, server.Path+"/"+info.URL); err != nil {
			return err
		}
		after, err := proc.CPU(server.PID)
		s.CPU = after - before
		return err
	})
	return s, err
}

// fetch gets a URL and notes the times.
func (s *Sample) fetch(ctx context.Context, conn *rawhttp.Conn, url string) error {
	start := time.Now()
	r, err := conn.Get(ctx, url)
	if err != nil {
		return err
	}
	if r.Status != http.StatusOK {
		return fmt.Errorf("%s: status %d", url, r.Status)
	}
	var first [1]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	s.FirstByte = time.Since(start)
	n, err := conn.Discard()
	s.Time, s.Wire = time.Since(start), n+1
	return err
}

// with runs the server while f runs.
func (f *Fresh) with(ctx context.Context, do func(*target.Server, *rawhttp.Conn) error) error {
	server, err := target.Start(ctx, f.Program)
	if err != nil {
		return err
	}
	conn := server.Connect()
	defer conn.Close()
	return errors.Join(do(server, conn), server.Close())
}
