package ssh

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	xssh "golang.org/x/crypto/ssh"
)

// Host says where a builder is and how it proves itself.
type Host struct {
	// Name is what errors and hooks call the builder; "" is Address.
	Name string
	// Line is where the builder is listed, "/etc/nix/machines:3", for errors; "" is "its machine's line".
	Line string
	// Address is a host's name or its IPv4 or IPv6 address, without brackets or port.
	Address string
	// Port is 22 if it is 0.
	Port int
	// User is whom to log in as; "" is root.
	User string
	// KeyFiles are private keys in OpenSSH's, PEM or PKCS#8 format, tried in this order. If there are none, those of the
	// Options are.
	KeyFiles []string
	// HostKeys are the keys that the builder may prove, and then the only ones. None: the known_hosts files tell.
	HostKeys []xssh.PublicKey
	// Command is what serves a store there, from the scheme and remote-program of a URL: "nix-daemon --stdio". The pool
	// makes no use of it.
	Command string
}

// line is what errors call the place where the builder is listed.
func (h *Host) line() string {
	if h.Line == "" {
		return "its machine's line"
	}
	return h.Line
}

// ParseHost reads the first, third and eighth column of a machine's line: a store's URL
// (ssh-ng://[user@]host[:port][?parameter=value&…], ssh://…, or a bare host, which is ssh://), a key file and a
// host key in base64, "-" or "" if there is none. Notes are sentences about parameters that have no effect here.
//
// Known parameters: ssh-key, base64-ssh-public-host-key, remote-program (words, separated by spaces), compress. Those
// of a store that SSH knows nothing of (max-connections, remote-store …) are left to others. An address of IPv6 stands
// in brackets; a zone (%eth0) is written %25eth0.
func ParseHost(store, keyFile, hostKey string) (h *Host, notes []string, err error) {
	scheme, rest, ok := strings.Cut(store, "://")
	if !ok {
		scheme, rest = "ssh", store
	}
	program := map[string]string{"ssh-ng": "nix-daemon --stdio", "ssh": "nix-store --serve --write"}
	if program[scheme] == "" {
		return nil, nil, fmt.Errorf("ssh: store %q is not reached by SSH", store)
	}
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		return nil, nil, fmt.Errorf("ssh: malformed store %q: want [user@]host[:port]", store)
	}
	h = &Host{Address: u.Hostname(), User: u.User.Username(), Command: program[scheme]}
	if _, has := u.User.Password(); has {
		return nil, nil, fmt.Errorf("ssh: the store of host %q has a password in its URL: SSH keys are what is used", h.Address)
	}
	if p := u.Port(); p != "" {
		if h.Port, err = strconv.Atoi(p); err != nil || h.Port < 1 || h.Port > 65535 {
			return nil, nil, fmt.Errorf("ssh: port %q of store %q", p, store)
		}
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, nil, fmt.Errorf("ssh: malformed parameters of store %q", store)
	}
	notes, err = h.parameters(query, scheme)
	if err != nil {
		return nil, nil, err
	}
	if keyFile != "" && keyFile != "-" {
		h.KeyFiles = []string{keyFile}
	}
	if hostKey != "" && hostKey != "-" {
		err = h.pin(hostKey)
	}
	return h, notes, err
}

func (h *Host) parameters(query url.Values, scheme string) (notes []string, err error) {
	if key := query.Get("ssh-key"); key != "" {
		h.KeyFiles = []string{key}
	}
	if key := query.Get("base64-ssh-public-host-key"); key != "" {
		if err := h.pin(key); err != nil {
			return nil, err
		}
	}
	if program := query.Get("remote-program"); program != "" {
		_, args, _ := strings.Cut(h.Command, " ")
		h.Command = program + " " + args
	}
	if c := query.Get("compress"); c != "" && c != "false" && c != "0" {
		notes = append(notes, fmt.Sprintf("compress=%s of %s://%s has no effect: what is sent is not compressed by SSH", c, scheme, h.Address))
	}
	return notes, nil
}

// pin reads a host key as Nix has it: base64 of a line "TYPE KEY [comment]", or of several.
func (h *Host) pin(encoded string) error {
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return fmt.Errorf("ssh: host key of %q is not base64: the column has base64 -w0 of /etc/ssh/ssh_host_ed25519_key.pub", h.Address)
	}
	h.HostKeys = nil
	for line := range strings.Lines(string(text)) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		key, _, _, _, err := xssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return fmt.Errorf("ssh: host key of %q is base64 of %q, which is no key: the column has base64 -w0 of "+
				"/etc/ssh/ssh_host_ed25519_key.pub", h.Address, strings.TrimSpace(line))
		}
		h.HostKeys = append(h.HostKeys, key)
	}
	if len(h.HostKeys) == 0 {
		return fmt.Errorf("ssh: host key of %q is empty", h.Address)
	}
	return nil
}

// addr is where sshd listens.
func (h *Host) addr() string { return net.JoinHostPort(h.Address, strconv.Itoa(h.Port)) }

// withDefaults checks a host and fills in what it leaves out.
func (h *Host) withDefaults() (Host, error) {
	c := *h
	c.KeyFiles, c.HostKeys = slices.Clone(h.KeyFiles), slices.Clone(h.HostKeys)
	if c.Address == "" || c.Port < 0 || c.Port > 65535 {
		return c, fmt.Errorf("ssh: address %q, port %d", c.Address, c.Port)
	}
	if c.Port == 0 {
		c.Port = 22
	}
	if c.User == "" {
		c.User = "root"
	}
	if c.Name == "" {
		c.Name = c.Address
	}
	return c, nil
}
