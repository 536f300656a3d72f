package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// hostKeys judges the key that a builder shows.
type hostKeys struct {
	host    Host
	files   []string // known_hosts files, "" that exist
	missing []string // and those that don't
	learnTo string
	check   xssh.HostKeyCallback // of the files; nil if keys are pinned
	first   []string             // algorithms of the keys that are known
}

// newHostKeys reads the files, which may have changed since the last connection.
func newHostKeys(h Host, o *Options) (*hostKeys, error) {
	k := &hostKeys{host: h, learnTo: o.LearnTo}
	if len(h.HostKeys) > 0 {
		for _, key := range h.HostKeys {
			k.first = append(k.first, algorithms(key.Type())...)
		}
		return k, nil
	}
	for _, file := range o.KnownHosts {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			k.missing = append(k.missing, file)
			continue
		}
		k.files = append(k.files, file)
	}
	var err error
	if k.check, err = knownhosts.New(k.files...); err != nil {
		return nil, &Error{
			Kind: HostKey, Host: h.Name, Reason: "known_hosts can't be read: " + strings.TrimPrefix(err.Error(), "knownhosts: "),
			Hint: "mend or remove that line, or pin the builder's key in the eighth column of " + h.line(), cause: err,
		}
	}
	// What is known is only told to who shows another key.
	var known *knownhosts.KeyError
	if err := k.check(h.addr(), address(h.addr()), nobody{}); errors.As(err, &known) {
		for _, want := range known.Want {
			k.first = append(k.first, algorithms(want.Key.Type())...)
		}
	}
	return k, nil
}

// address is an address of which only the text is known.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// nobody is a key that no file has.
type nobody struct{}

func (nobody) Type() string                         { return "nobody" }
func (nobody) Marshal() []byte                      { return []byte("nobody") }
func (nobody) Verify([]byte, *xssh.Signature) error { return errors.New("ssh: not a key") }

// algorithms are the names by which a key of this type may sign.
func algorithms(keyType string) []string {
	if keyType == xssh.KeyAlgoRSA {
		return []string{xssh.KeyAlgoRSASHA512, xssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// preferred has the algorithms of keys that are known first, so that a builder with several keys shows one of these,
// and then all others, so that a wrong key is seen and can be named.
func (k *hostKeys) preferred() []string {
	all := slices.Clone(k.first)
	for _, a := range xssh.SupportedAlgorithms().HostKeys {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// verify is the callback of a handshake.
func (k *hostKeys) verify(addr string, remote net.Addr, key xssh.PublicKey) error {
	if k.check == nil {
		return k.verifyPinned(key)
	}
	err := k.check(addr, remote, key)
	if err == nil {
		return nil
	}
	if revoked := new(knownhosts.RevokedError); errors.As(err, &revoked) {
		return k.error(key, fmt.Sprintf("%s:%d revokes it", revoked.Revoked.Filename, revoked.Revoked.Line),
			"the builder needs a new key (ssh-keygen -A there, after removing the old one)")
	}
	known := new(knownhosts.KeyError)
	if !errors.As(err, &known) {
		return k.error(key, err.Error(), "")
	}
	if len(known.Want) > 0 {
		want := known.Want[0]
		return k.error(key, fmt.Sprintf("%s:%d has %s %s for it", want.Filename, want.Line, want.Key.Type(), xssh.FingerprintSHA256(want.Key)),
			"if the builder was set up anew, replace that line by: "+k.line(key)+"; if not, someone is between")
	}
	return k.unknown(key)
}

func (k *hostKeys) verifyPinned(key xssh.PublicKey) error {
	for _, pinned := range k.host.HostKeys {
		if bytes.Equal(pinned.Marshal(), key.Marshal()) {
			return nil
		}
	}
	pinned := k.host.HostKeys[0]
	return k.error(key, fmt.Sprintf("%s (eighth column, base64-ssh-public-host-key) pins %s %s",
		k.host.line(), pinned.Type(), xssh.FingerprintSHA256(pinned)),
		"if the builder was set up anew, pin base64 -w0 of its /etc/ssh/ssh_host_*_key.pub; if not, someone is between")
}

func (k *hostKeys) unknown(key xssh.PublicKey) error {
	if k.learnTo != "" {
		if err := k.learn(key); err != nil {
			return k.error(key, "it is new and can't be kept: "+err.Error(), "")
		}
		return nil
	}
	files := append(slices.Clone(k.files), k.missing...)
	where := strings.Join(files, ", ")
	if where == "" {
		return k.error(key, "no key of it is known, and there is no known_hosts file", "pin its key in the eighth column of "+k.host.line())
	}
	return k.error(key, "none of "+where+" knows it",
		"if that is the builder's fingerprint (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there), add to "+files[0]+" the line: "+k.line(key))
}

// learn adds a key to the file in one write, so that two that learn at a time don't mix their lines.
func (k *hostKeys) learn(key xssh.PublicKey) error {
	f, err := os.OpenFile(k.learnTo, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(k.line(key) + "\n")
	return errors.Join(err, f.Close())
}

func (k *hostKeys) line(key xssh.PublicKey) string {
	return knownhosts.Line([]string{k.host.addr()}, key)
}

func (k *hostKeys) error(key xssh.PublicKey, why, hint string) error {
	return &Error{
		Kind: HostKey, Host: k.host.Name, Hint: hint,
		Reason: fmt.Sprintf("at %s it shows the host key %s %s, but %s", k.host.addr(), key.Type(), xssh.FingerprintSHA256(key), why),
	}
}
