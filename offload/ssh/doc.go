// Package ssh reaches a builder over SSH: one connection that all builds share, a channel of it for each.
//
// A [Pool] belongs to one builder, a [Host]. [Pool.Open] runs a command there and returns a [Session], whose Read and
// Write are the command's stdout and stdin. Most callers make a Host with [ParseHost] from a machine's line, one Pool
// for it with [NewPool], and open "nix-daemon --stdio" once a build.
//
// # Connections and sessions
//
// Nothing is connected before the first Open. sshd lets a connection have MaxSessions sessions at once (10 unless it
// is told otherwise) and refuses more. The pool learns that number from the first refusal: from then on, and for a
// minute, it opens no more on a connection, makes another one when all are full, [Options].MaxConnections at most,
// and lets further Opens wait for a session to end. No Open fails because of a refusal, but where sshd refuses even a
// connection's only session (MaxSessions 0). Opens that wait are served in no particular order.
//
// # Host keys
//
// A builder must prove a key that was known before. Keys that the Host pins (the eighth column of a machine's line,
// base64-ssh-public-host-key of a store's URL) are then the only ones; otherwise known_hosts files are asked, as
// OpenSSH writes them: hashed names, wildcards, @cert-authority, @revoked. An unknown key is never trusted unless
// [Options].LearnTo names a file for it. The error about a key names the builder, what it showed, the file and line
// that say otherwise, and what to do.
//
// # A builder that does not answer
//
// All waits have an end: for TCP, for the handshake, for any byte from a builder that was asked for one
// (keepalive@openssh.com), for progress of what is sent. A connection that ends or falls silent fails each of its
// sessions with the same [Error]. A link that an upload fills and that carries less than about 10 kB/s may be taken
// for a dead one, for then a builder's acknowledgements of 96 KiB each are further apart than [Options].Silence.
//
// A failed attempt to connect opens the pool's circuit breaker: Opens fail at once with the attempt's error and the
// time of the next attempt in it. That one is made in the background, so that a dead builder costs the builds that wait
// for the first attempt one timeout, and later ones nothing. The time between attempts doubles from
// [Options].MinBackoff to [Options].MaxBackoff; each wait is a random part of it (full jitter), for builders that died
// together come back together. After a wrong key, of the builder or of ours, the bound is ten times MaxBackoff, for those
// who knock too often are shut out by some; [Pool.Retry] is for who mended it. A connection that falls silent, or that is lost before a command ended on it, opens
// the breaker too. [Pool.Status] reads all of it.
//
// # Speed
//
// What bounds an upload over a long link is sshd's window of 2 MiB a channel, as with the OpenSSH client: about
// 100 MB/s at a round trip of 20 ms. Two sessions have two windows.
package ssh
