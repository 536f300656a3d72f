package machines

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/voidnxlab/nixtrap/offload"
)

const uriFix = "write ssh-ng://HOST or ssh://HOST"

// parseURI sets what the store URI says about how to reach the machine.
func parseURI(m *offload.Machine, uri string) *fault {
	base, _, _ := strings.Cut(uri, "?")
	switch {
	case base == "auto" || base == "daemon" || base == "local" || base == "":
		return &fault{fmt.Sprintf("%q is the asking machine's own store, not a builder", uri), uriFix}
	case !strings.Contains(uri, "://") && strings.Contains(uri, "/"):
		return &fault{fmt.Sprintf("%q is a folder, not a builder", uri), uriFix}
	case !strings.Contains(uri, "://"):
		uri = "ssh://" + uri
	}
	scheme, rest, _ := strings.Cut(uri, "://")
	if scheme != "ssh" && scheme != "ssh-ng" {
		return &fault{fmt.Sprintf("a store of scheme %q takes no builds over SSH", scheme), uriFix}
	}
	authority, query, _ := strings.Cut(rest, "?")
	authority = strings.TrimSuffix(authority, "/")
	m.Scheme = scheme
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		user, err := url.PathUnescape(authority[:at])
		if err != nil || user == "" || strings.ContainsAny(user, ":/") || hasSpace(user) {
			return &fault{fmt.Sprintf("%q is no user's name", authority[:at]), "write USER@HOST, without a password"}
		}
		m.User, authority = user, authority[at+1:]
	}
	if f := parseHost(m, authority); f != nil {
		return f
	}
	return parseParams(m, query)
}

func parseHost(m *offload.Machine, s string) *fault {
	host, port := s, ""
	if inner, ok := strings.CutPrefix(s, "["); ok {
		var closed bool
		if host, port, closed = strings.Cut(inner, "]"); !closed || !isIPv6(host) {
			return &fault{fmt.Sprintf("%q is no address in brackets", s), "write [ADDRESS] or [ADDRESS]:PORT"}
		}
	} else if !isIPv6(s) {
		if colon := strings.IndexByte(s, ':'); colon >= 0 {
			host, port = s[:colon], s[colon:]
		}
	}
	if port != "" {
		n, err := strconv.ParseUint(strings.TrimPrefix(port, ":"), 10, 16)
		if err != nil || n == 0 || port[0] != ':' {
			return &fault{fmt.Sprintf("%q is no port", port), "write HOST:PORT with a port from 1 to 65535"}
		}
		m.Port = int(n)
	}
	host, err := url.PathUnescape(host)
	if err != nil || host == "" || strings.HasPrefix(host, "-") || strings.ContainsAny(host, "/@#?[]\\\"'%") || hasSpace(host) {
		return &fault{fmt.Sprintf("%q names no host", s), uriFix}
	}
	m.Host = host
	return nil
}

func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6() && a.Zone() == ""
}

// hasSpace says whether a word could not stand in a line for Nix, or would break a log.
func hasSpace(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// parseParams gives the parameters that have fields to these.
func parseParams(m *offload.Machine, query string) *fault {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		rawKey, rawValue, ok := strings.Cut(pair, "=")
		key, err := url.PathUnescape(rawKey) // a plus sign is itself: base64 has it, and Nix leaves it so
		value, err2 := url.PathUnescape(rawValue)
		if !ok || err != nil || err2 != nil || key == "" {
			return &fault{fmt.Sprintf("%q is no parameter", pair), "write KEY=VALUE, other characters as %XX"}
		}
		switch key {
		case "ssh-key":
			m.Identity = value
		case "base64-ssh-public-host-key":
			if m.HostKey, err = decodeHostKey(value); err != nil {
				return &fault{"base64-ssh-public-host-key: " + err.Error(), hostKeyFix}
			}
		case "remote-program":
			m.RemoteProgram = strings.Fields(value)
		default:
			if m.Params == nil {
				m.Params = make(map[string]string)
			}
			m.Params[key] = value
		}
	}
	return nil
}

const hostKeyFix = "write what `base64 -w0 /etc/ssh/ssh_host_ed25519_key.pub` prints on the builder"

// decodeHostKey takes what Nix takes: standard base64 with or without padding, up to the first equals sign.
func decodeHostKey(s string) (string, error) {
	s, _, _ = strings.Cut(s, "=")
	key, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return "", fmt.Errorf("%q is not base64", s)
	}
	return strings.TrimSpace(string(key)), nil
}
