package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// address is a parsed listen address.
type address struct {
	network string      // "tcp", "unix", or "systemd" for inherited sockets
	where   string      // host and port, socket path, or the inherited sockets' name ("" for all that are left)
	mode    os.FileMode // of a unix socket
}

// defaultSocketMode lets the owner and its group connect.
const defaultSocketMode = 0o660

// parseAddress reads "HOST:PORT", "unix:PATH[?mode=OCTAL]", "systemd" or "systemd:NAME". name is the flag's.
func parseAddress(name, s string) (address, error) {
	if rest, ok := strings.CutPrefix(s, systemdSockets); ok && (rest == "" || rest[0] == ':') {
		return address{network: systemdSockets, where: strings.TrimPrefix(rest, ":")}, nil
	}
	if rest, ok := strings.CutPrefix(s, "unix:"); ok {
		return parseUnixAddress(name, s, rest)
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil || port == "" {
		return address{}, usageError{hint(fmt.Errorf("%s: %q is no address", name, s),
			"use HOST:PORT as in 127.0.0.1:5000, :PORT for all addresses, unix:PATH, or systemd")}
	}
	return address{network: "tcp", where: s}, nil
}

func parseUnixAddress(name, s, rest string) (address, error) {
	path, query, _ := strings.Cut(rest, "?")
	values, err := url.ParseQuery(query)
	mode := uint64(defaultSocketMode)
	if m := values.Get("mode"); err == nil && m != "" {
		mode, err = strconv.ParseUint(m, 8, 9)
	}
	values.Del("mode")
	if err != nil || path == "" || len(values) > 0 {
		return address{}, usageError{hint(fmt.Errorf("%s: %q is no socket address", name, s),
			"use unix:PATH or unix:PATH?mode=0660")}
	}
	return address{network: "unix", where: path, mode: os.FileMode(mode)}, nil
}

// listening are a server's open listeners.
type listening struct{ cache, admin []net.Listener }

// close closes what is still open.
func (l listening) close() {
	closeAll(l.cache)
	closeAll(l.admin)
}

// listen opens all of the configuration's addresses. On error nothing stays open.
// It comes first of all, while nothing else of the process runs: see listenUnix.
func (c *Config) listen(ctx context.Context) (l listening, err error) {
	sockets, err := inheritSockets()
	if err != nil {
		return l, err
	}
	if c.AdminListen != "" {
		if l.admin, err = sockets.listen(ctx, flagAdminListen, c.AdminListen); err != nil {
			return l, err
		}
	}
	if l.cache, err = sockets.listeners(ctx, c.Listen); err == nil {
		err = c.checkTLS(l.cache)
	}
	if err != nil {
		l.close()
	}
	return l, err
}

// checkTLS refuses certificates where there is no TCP listener to use them.
func (c *Config) checkTLS(listeners []net.Listener) error {
	for _, l := range listeners {
		if l.Addr().Network() == "tcp" {
			return nil
		}
	}
	switch {
	case len(c.ACMEDomain) > 0:
		return usageError{hint(errors.New("acme-domain: there is no TCP address, but the authority connects to port 443"),
			"add --listen :443, or leave acme-domain out: unix sockets speak plain HTTP, for a proxy that has the certificate")}
	case c.TLSCert != "":
		return usageError{hint(errors.New("tls-cert: there is no TCP address, and unix sockets speak plain HTTP"),
			"add --listen HOST:PORT, or leave tls-cert and tls-key out and let the proxy have the certificate")}
	}
	return nil
}

// listeners opens every address. Inherited sockets that no address names come last;
// they replace the default address. On error nothing stays open.
func (in *inherited) listeners(ctx context.Context, specs []string) (all []net.Listener, err error) {
	defer func() {
		if err != nil {
			closeAll(all)
		}
	}()
	if len(specs) == 0 && len(in.sockets) == 0 {
		specs = []string{defaultListen}
	}
	for _, spec := range specs {
		opened, err := in.listen(ctx, flagListen, spec)
		if err != nil {
			return all, err
		}
		all = append(all, opened...)
	}
	return append(all, in.take("")...), nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// listen opens one address, which is several listeners only for inherited sockets. name is the flag's.
func (in *inherited) listen(ctx context.Context, name, spec string) ([]net.Listener, error) {
	a, err := parseAddress(name, spec)
	if err != nil {
		return nil, err
	}
	if a.network == systemdSockets {
		sockets := in.take(a.where)
		if len(sockets) == 0 {
			return nil, hint(fmt.Errorf("%s: %s: no such socket was handed over", name, spec),
				"start it from a systemd .socket unit (its FileDescriptorName= is the NAME), or listen on an address")
		}
		return sockets, nil
	}
	var l net.Listener
	if a.network == "unix" {
		l, err = listenUnix(ctx, a)
	} else {
		l, err = new(net.ListenConfig).Listen(ctx, a.network, a.where)
	}
	if err != nil && name != flagListen { // which the error begins with
		err = fmt.Errorf("%s: %w", name, err)
	}
	if err != nil {
		return nil, hint(err, listenAdvice(err, name, a))
	}
	return []net.Listener{l}, nil
}

// listenUnix makes the socket with the wanted mode from its first moment, in the place of one that nobody answers on.
func listenUnix(ctx context.Context, a address) (net.Listener, error) {
	if err := removeStale(ctx, a.where); err != nil {
		return nil, err
	}
	// The mask is the whole process's, but nothing else of it runs yet.
	old := syscall.Umask(0o777)
	l, err := new(net.ListenConfig).Listen(ctx, "unix", a.where)
	syscall.Umask(old)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(a.where, a.mode); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// removeStale removes a socket that a server left behind. Anything else at path stays.
func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen unix %s: the file exists and is no socket", path)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("listen unix %s: %w", path, syscall.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("listen unix %s: %w", path, err)
	}
	return os.Remove(path)
}

// listenAdvice says what to do about an address that could not be had. name is the flag's.
func listenAdvice(err error, name string, a address) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && a.network == "tcp":
		_, port, _ := net.SplitHostPort(a.where)
		return fmt.Sprintf("another program has this port (see: ss -ltnp sport = :%s): stop it, or choose another port "+
			"with --%s", port, name)
	case errors.Is(err, syscall.EADDRINUSE):
		return "another server answers on this socket: stop it, or choose another path with --" + name
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this machine has no such address (see: ip address); use :PORT to listen on all of them"
	case errors.Is(err, fs.ErrPermission) && a.network == "tcp":
		return "ports below 1024 need AmbientCapabilities=CAP_NET_BIND_SERVICE or a systemd .socket unit"
	case errors.Is(err, fs.ErrPermission):
		return "the socket's folder must be writable to this user; RuntimeDirectory= in a systemd unit makes one"
	case errors.Is(err, fs.ErrNotExist):
		return "the socket's folder must exist; RuntimeDirectory= in a systemd unit makes one"
	}
	return "use HOST:PORT as in 127.0.0.1:5000, :PORT for all addresses, unix:PATH, or systemd"
}
