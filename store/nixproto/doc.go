// Package nixproto speaks the worker protocol of Nix's daemon, as its client.
//
// Most callers want a [Pool]: queries on a bounded set of connections, safe for concurrent use.
// [Dial] and [NewClient] give one connection, a [Client].
//
// # The protocol
//
// Both sides first exchange a magic number and a version, and go on with the lower one;
// from 1.38 they also exchange sets of feature names and use those that both named.
// A client then sends an operation's number with its arguments.
// The daemon answers with messages (log lines, activities) until one says that the work is done or has failed,
// and then with the operation's result.
// There is one operation at a time on a connection, and no way to abandon one but to close it.
//
// This package announces version 1.38 and no features, and accepts daemons from 1.34 on:
//
//	Nix     offers   features                            trust known
//	2.8     1.34                                         no
//	2.26    1.38     none                                yes
//	2.34    1.38     none                                yes
//	2.35    1.38     realisation-with-path-not-hash, …   yes (read in Nix's source, not tried)
//
// # Primitives
//
// Integers are 64 bits, little-endian; booleans are the integers 0 and 1.
// A string is its length, its bytes and zero bytes up to a multiple of 8.
// A list or set is its length and its items; a map is a list of keys and values in turn.
// A store path is a string with the whole path; one that is not known is "".
//
// # Trust
//
// What a daemon sends is judged like any outside data: every length is held against a limit before it is believed,
// every path, hash and signature is parsed, and an answer about another path than the one asked for is refused.
// Text from the daemon is quoted in errors.
package nixproto
