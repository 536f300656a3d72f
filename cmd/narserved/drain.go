package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

const (
	drainReport = 10 * time.Second // between two lines about transfers that are still running
	cutGrace    = 5 * time.Second  // for handlers to notice that their connection was cut
)

// waitForStop returns when ctx ends, a stop signal comes or a listener fails. SIGHUP reads certificates again.
func (s *server) waitForStop(ctx context.Context, signals <-chan os.Signal, failed <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-failed:
			return
		case signal := <-signals:
			if signal != syscall.SIGHUP {
				return
			}
			notifyReloading(s.log)
			s.reload()
			notifyReady(s.log)
		}
	}
}

// drain stops accepting, lets running requests finish until the timeout or a second signal, and cuts the rest.
func (s *server) drain(signals <-chan os.Signal) {
	timeout := time.Duration(s.config.DrainTimeout)
	s.log.Info("stopping: running requests may finish, a second signal cuts them",
		"running", s.traffic.running.Load(), "drain_timeout", timeout)
	notifyStopping(s.log, timeout)

	ctx, cancel := context.WithTimeoutCause(context.Background(), timeout, errors.New("drain timeout"))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.plain.Shutdown(ctx) }()
	if s.awaitDrain(done, signals, cancel) != nil {
		_ = s.plain.Close()
		s.awaitIdle(cutGrace)
	}
	s.log.Info("stopped")
}

// awaitDrain reports what is left now and then, and cuts at a second stop signal.
func (s *server) awaitDrain(done <-chan error, signals <-chan os.Signal, cut func()) error {
	report := time.NewTicker(drainReport)
	defer report.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				s.log.Warn("cutting requests that are still running", "running", s.traffic.running.Load())
			}
			return err
		case <-report.C:
			s.log.Info("still stopping", "running", s.traffic.running.Load())
		case signal := <-signals:
			if signal != syscall.SIGHUP {
				cut()
			}
		}
	}
}

// awaitIdle waits until no handler runs, so that the store is not closed under one.
func (s *server) awaitIdle(limit time.Duration) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); s.traffic.running.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
}
