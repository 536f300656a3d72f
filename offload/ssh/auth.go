package ssh

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// identities are the keys that one attempt to connect offers.
type identities struct {
	signers []xssh.Signer
	// problems are sentences about files and the agent that gave none.
	problems []string
	agent    net.Conn // open while its keys may sign
}

// newIdentities reads the key files and asks the agent. Without any key it is an error.
func newIdentities(h Host, o *Options, deadline time.Time) (*identities, error) {
	ids := &identities{}
	files := h.KeyFiles
	if len(files) == 0 {
		files = o.KeyFiles
	}
	for _, file := range files {
		ids.addFile(file, o.Credentials)
	}
	if o.Agent != "" {
		ids.addAgent(o.Agent, deadline)
	}
	if len(ids.signers) > 0 {
		return ids, nil
	}
	ids.close()
	reason := "there is no key to log in with"
	if len(ids.problems) > 0 {
		reason += ": " + strings.Join(ids.problems, "; ")
	}
	return nil, &Error{
		Kind: Authentication, Host: h.Name, Reason: reason,
		Hint: "name a key file without a passphrase in the third column of " + h.line() + ", readable by the user that this runs as",
	}
}

func (ids *identities) problem(format string, args ...any) {
	ids.problems = append(ids.problems, fmt.Sprintf(format, args...))
}

func (ids *identities) addFile(file, credentials string) {
	if credentials != "" && !strings.Contains(file, "/") {
		if in := filepath.Join(credentials, file); exists(in) {
			file = in
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		ids.problem("%v", err) // it names the file
		return
	}
	signer, err := xssh.ParsePrivateKey(text)
	if encrypted := new(xssh.PassphraseMissingError); errors.As(err, &encrypted) {
		ids.problem("%s is encrypted with a passphrase, which nobody can type here (an agent may hold it: ssh-add %[1]s)", file)
		return
	}
	if err != nil {
		ids.problem("%s is no private key that can be read: %v", file, err)
		return
	}
	ids.signers = append(ids.signers, signer)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func (ids *identities) addAgent(socket string, deadline time.Time) {
	conn, err := net.DialTimeout("unix", socket, time.Until(deadline))
	if err != nil {
		ids.problem("the agent does not answer: %v", err)
		return
	}
	ids.agent = conn
	_ = conn.SetDeadline(deadline) // a connection has deadlines
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		ids.problem("the agent at %s does not tell its keys: %v", socket, err)
		return
	}
	if len(signers) == 0 {
		ids.problem("the agent at %s has no key", socket)
	}
	ids.signers = append(ids.signers, signers...)
}

func (ids *identities) close() {
	if ids.agent != nil {
		ids.agent.Close()
	}
}

// rejected is the error when the builder takes none of the keys.
func (ids *identities) rejected(h Host, cause error) *Error {
	var offered []string
	for _, s := range ids.signers {
		offered = append(offered, s.PublicKey().Type()+" "+xssh.FingerprintSHA256(s.PublicKey()))
	}
	reason := fmt.Sprintf("%s accepts none of our keys for user %q: %s", h.addr(), h.User, strings.Join(offered, ", "))
	if len(ids.problems) > 0 {
		reason += "; not offered: " + strings.Join(ids.problems, "; ")
	}
	return &Error{
		Kind: Authentication, Host: h.Name, Reason: reason, cause: cause,
		Hint: fmt.Sprintf("add to ~%s/.ssh/authorized_keys there: %s", h.User,
			strings.TrimSpace(string(xssh.MarshalAuthorizedKey(ids.signers[0].PublicKey())))),
	}
}
