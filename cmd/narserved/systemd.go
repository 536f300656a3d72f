package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// inherited are the listening sockets that systemd handed over and that nobody has taken yet.
type inherited struct{ sockets []inheritedSocket }

type inheritedSocket struct {
	name string
	net.Listener
}

// inheritSockets takes the process's inherited sockets, which is possible once.
func inheritSockets() (*inherited, error) {
	in := new(inherited)
	for _, file := range activation.Files(true) {
		l, err := net.FileListener(file)
		file.Close()
		if err != nil {
			return nil, hint(fmt.Errorf("systemd: inherited socket %q: %v", file.Name(), err),
				"the .socket unit needs ListenStream= and Accept=no")
		}
		in.sockets = append(in.sockets, inheritedSocket{file.Name(), l})
	}
	return in, nil
}

// take hands out the sockets with a name, "" being all that are left.
func (in *inherited) take(name string) (taken []net.Listener) {
	in.sockets = slices.DeleteFunc(in.sockets, func(s inheritedSocket) bool {
		if name != "" && name != s.name {
			return false
		}
		taken = append(taken, s.Listener)
		return true
	})
	return taken
}

// notify tells systemd about the service's state, if systemd wants to know.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd not notified", "error", err)
	}
}

func notifyReady(log *slog.Logger) { notify(log, daemon.SdNotifyReady) }

// notifyReloading must be followed by notifyReady.
func notifyReloading(log *slog.Logger) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	notify(log, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// notifyStopping asks for as much time as draining may take, whatever the unit's TimeoutStopSec=.
func notifyStopping(log *slog.Logger, drain time.Duration) {
	notify(log, fmt.Sprintf("%s\nEXTEND_TIMEOUT_USEC=%d", daemon.SdNotifyStopping, (drain+10*time.Second).Microseconds()))
}

// watchdog pets systemd's watchdog while the handler says that it is healthy, until ctx ends.
// Without a watchdog it returns at once.
// An unhealthy or hanging handler goes without, and systemd restarts the service.
func watchdog(ctx context.Context, log *slog.Logger, handler http.Handler) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return hint(fmt.Errorf("systemd: %v", err), "WATCHDOG_USEC is set by systemd from WatchdogSec=")
	}
	if interval == 0 {
		return nil
	}
	ticker := time.NewTicker(interval / 3)
	defer ticker.Stop()
	for {
		if status := probe(ctx, handler); status == http.StatusOK {
			notify(log, daemon.SdNotifyWatchdog)
		} else if ctx.Err() == nil {
			log.Error("not healthy, watchdog goes without", "status", status)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// probe asks the handler for /healthz, without a network in between.
func probe(ctx context.Context, handler http.Handler) (status int) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/healthz", nil)
	if err != nil {
		return 0
	}
	var w statusWriter
	defer func() {
		if recover() != nil {
			status = http.StatusInternalServerError
		}
	}()
	handler.ServeHTTP(&w, r)
	return w.status
}

// statusWriter is a http.ResponseWriter that keeps only the status.
type statusWriter struct {
	header http.Header
	status int
}

func (w *statusWriter) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *statusWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return len(p), nil
}
