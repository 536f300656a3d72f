package main

import (
	"net"
	"strconv"
	"strings"

	"github.com/voidnxlab/nixtrap/signing"
)

// announce logs what is served where, and returns the URL for clients.
func (s *server) announce(listeners []net.Listener, keys []*signing.SecretKey) string {
	s.log.Info("serving", "store", s.source.name, "store_dir", s.source.StoreDir(), "version", version())
	logKeys(s.log, keys)
	for _, l := range listeners {
		s.log.Info("listening", "address", l.Addr().String(), "url", s.clientURL(l))
	}
	return s.clientURL(listeners[0])
}

// clientURL is where clients reach a listener: its address, this machine's name if it listens on all addresses, or the
// name that there is a certificate for. It is "" for a unix socket, which Nix cannot use.
func (s *server) clientURL(l net.Listener) string {
	address, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	host, scheme, usual := address.IP.String(), "http", 80
	if s.http.TLSConfig != nil {
		scheme, usual = "https", 443
	}
	if address.IP.IsUnspecified() {
		host = hostName()
	}
	if len(s.config.ACMEDomain) > 0 {
		host = s.config.ACMEDomain[0]
	}
	authority := net.JoinHostPort(host, strconv.Itoa(address.Port))
	if address.Port == usual {
		authority = strings.TrimSuffix(authority, ":"+strconv.Itoa(usual))
	}
	return scheme + "://" + authority
}
