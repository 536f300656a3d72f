// Package nixproto speaks Nix's protocols between machines and programs: the worker protocol, of a daemon and of
// `ssh-ng://`, as client and as server; and the serve protocol of `ssh://`, as client.
//
// Who asks a daemon wants a [Pool]: queries on a bounded set of connections, safe for concurrent use.
// Who builds elsewhere wants one connection a build: [Dial] or [NewClient] give a [Client], and [NewLegacyClient] a
// [LegacyClient] for builders that allow no more than `nix-store --serve --write`.
// The two have the same methods for what an offloader does, so that an interface of its own covers both:
//
//	SetOptions, ValidPaths, AddMultipleToStore, BuildDerivation, PathInfo, NARFromPath, Close
//
// Who wants stock Nix to build through a program of theirs wants [Serve], which is a daemon for one connection, over a
// [Handler]. A Client is a Handler, so a server in front of another daemon is
//
//	nixproto.Serve(ctx, conn, func(ctx context.Context, s *nixproto.Session) (nixproto.Handler, error) {
//		return nixproto.Dial(ctx, "", &nixproto.Options{OnEvent: s.Send})
//	}, nil)
//
// # The worker protocol
//
// Both sides first exchange a magic number and a version, and go on with the lower one;
// from 1.38 they also exchange sets of feature names and use those that both named.
// From 1.33 the daemon says its Nix version, from 1.35 whether it trusts the client.
// A client then sends an operation's number with its arguments.
// The daemon answers with messages (log lines, activities) until one says that the work is done or has failed,
// and then with the operation's result.
// There is one operation at a time on a connection, and no way to abandon one but to close it.
//
// This package speaks 1.32 to 1.38 without features, on both sides:
//
//	Nix     speaks   features                            trust known
//	2.4     1.32                                         no (read in Nix's source, not tried)
//	2.8     1.34                                         no
//	2.26    1.38     none                                yes
//	2.34    1.38     none                                yes
//	2.35    1.38     realisation-with-path-not-hash, …   yes (read in Nix's source, not tried)
//
// What a version changes: the Nix version is said from 1.33, BuildPathsWithResults exists from 1.34, trust is said from
// 1.35, a result has CPU times from 1.37, features exist from 1.38. All else here is the same since 1.32.
//
// # Uploads
//
// Operations that add something carry it in frames: a length, as many bytes without padding, and so on until a length of 0.
// The daemon may send messages meanwhile, and an error; so a client sends and receives at the same time.
// After an error a client ends its frames early, and a daemon reads up to that end.
// A daemon says that it is done after the last frame only.
//
// The frames of AddMultipleToStore hold the number of paths and then, for each, its path, metadata and NAR.
// A path comes after those that it refers to. Where a NAR ends is known by its own grammar.
//
// # The serve protocol
//
// It is of the same primitives, without messages, errors or frames: a command's number with its arguments, and a result.
// The command's standard error is the log of a build and all that is said of a failure, after which it ends.
// Nix 2.8 to 2.34 speak 2.7, and this package 2.5 to 2.7. It has no trust: the command does what its user may.
//
// # Primitives
//
// Integers are 64 bits, little-endian; booleans are the integers 0 and 1.
// A string is its length, its bytes and zero bytes up to a multiple of 8.
// A list or set is its length and its items; a map is a list of keys and values in turn.
// A store path is a string with the whole path; one that is not known is "".
// Times are seconds since 1970, 0 where not known.
//
// # Trust
//
// What the other side sends is judged like any outside data: every length is held against a limit before it is believed,
// memory is taken as bytes arrive, every path and hash is parsed, and an answer about another path than the one asked for
// is refused. Text from the other side is quoted in errors.
//
// A server knows nothing of who its client is: [ServerOptions] says how far it is trusted, and the protocol's own rules for
// that are kept by Serve.
//
// # Source
//
// The formats are those of Nix's source, src/libstore: worker-protocol.cc, daemon.cc, remote-store.cc, serve-protocol.cc
// and, for `nix-store --serve`, nix-store.cc; and of sessions with real Nix 2.8, 2.26 and 2.34, which the tests replay.
package nixproto
