package ssh

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Options are a pool's. The zero value, and nil, are sensible but for keys: without KeyFiles, of these or the Host's,
// and without an agent there is none. Durations of 0 have the default that each field says.
type Options struct {
	// KnownHosts are the files that tell a builder's key if its Host pins none. One that does not exist is empty.
	// nil is ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts.
	KnownHosts []string
	// LearnTo is a file in known_hosts format that takes a key of a builder of which no file knows one: trust on first
	// use. It should be one of KnownHosts. "" trusts nobody.
	LearnTo string
	// KeyFiles are the private keys for hosts that name none.
	KeyFiles []string
	// Credentials is the folder that systemd names in $CREDENTIALS_DIRECTORY, or "": a key file without a slash is
	// looked for there first.
	Credentials string
	// Agent is the socket of an SSH agent, as in $SSH_AUTH_SOCK, whose keys are tried after those of the files, or "".
	Agent string

	// Connect is how long TCP may take, name resolution included. 5 s.
	Connect time.Duration
	// Handshake is how long it may take from there until the builder accepted a key. 10 s.
	Handshake time.Duration
	// Silence is how long a builder may say nothing though it was asked to, and how long what is sent may make no
	// progress. An idle builder is asked five times as often. 15 s.
	Silence time.Duration
	// Idle is how long a connection without sessions is kept. 5 min.
	Idle time.Duration
	// MinBackoff and MaxBackoff are the shortest and the longest bound of a wait before the next attempt to connect. 1 s,
	// 1 min.
	MinBackoff, MaxBackoff time.Duration
	// MaxConnections is the number of connections that sessions are spread over when sshd allows no more on one. 8.
	MaxConnections int

	// Dial makes TCP connections; nil is net.Dialer's DialContext. The context has Connect's deadline.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Trace is told what happens.
	Trace Trace
}

// Trace is called when something happened, by several goroutines at a time. A hook must return soon, and must not call
// the pool. nil hooks are left out.
type Trace struct {
	// Connected is called when a connection is ready for sessions, with the time that took.
	Connected func(d time.Duration)
	// ConnectFailed is called when an attempt failed.
	ConnectFailed func(err *Error, d time.Duration)
	// Disconnected is called when a connection has ended: err is nil if the pool closed it.
	Disconnected func(err *Error)
	// State is called when the breaker changed.
	State func(State)
	// Opened is called when a command has been started, with the time since Open was called.
	Opened func(d time.Duration)
	// SessionRefused is called when sshd refused a session, which waits or goes to another connection then.
	SessionRefused func()
	// Ended is called when a session has ended, with the bytes of stdin and of stdout, and the error that Wait returns.
	Ended func(sent, received int64, err error)
}

// withDefaults checks options and fills in what they leave out.
func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.KnownHosts == nil {
		c.KnownHosts = []string{"/etc/ssh/ssh_known_hosts"}
		if home, err := os.UserHomeDir(); err == nil {
			c.KnownHosts = append([]string{filepath.Join(home, ".ssh/known_hosts")}, c.KnownHosts...)
		}
	}
	c.KnownHosts, c.KeyFiles = slices.Clone(c.KnownHosts), slices.Clone(c.KeyFiles)
	for _, d := range []struct {
		set     *time.Duration
		without time.Duration
	}{
		{&c.Connect, 5 * time.Second},
		{&c.Handshake, 10 * time.Second},
		{&c.Silence, 15 * time.Second},
		{&c.Idle, 5 * time.Minute},
		{&c.MinBackoff, time.Second},
		{&c.MaxBackoff, time.Minute},
	} {
		if *d.set < 0 {
			return c, errors.New("ssh: a time is negative")
		}
		if *d.set == 0 {
			*d.set = d.without
		}
	}
	if c.MaxBackoff < c.MinBackoff || c.MaxConnections < 0 {
		return c, errors.New("ssh: the longest back-off is shorter than the shortest, or connections are negative")
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 8
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	return c, nil
}
