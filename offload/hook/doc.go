// Package hook speaks the protocol between Nix and its build hook, the program that may take a build to another machine,
// and leaves the building itself to the hook that Nix has of its own, `build-remote`.
//
// [Serve] is what a build hook does from start to end. It asks a [Decider] where a build is to go; [Client] is the one
// that asks a coordinator on a unix socket, [NewHandler] the coordinator's side of that. The package knows the standard
// library alone, for Nix starts a hook for each build that goes elsewhere.
//
// # The protocol
//
// Nix starts the hook with its verbosity as last argument, in a session of its own, with these files:
//
//	0        what Nix says
//	1 and 2  the hook's replies and messages, one pipe
//	4        the log of the build, raw
//	5        the reading end of the same pipe, from which build-remote reads what ssh has to say
//
// Numbers are 64 bits, little-endian. A string is its length, its bytes, and zeros up to a multiple of 8. A list is the
// number of its items and the items. Nix says
//
//	1, name, value   for each of its settings, the client's wishes included; then 0
//	"try", willing, system, derivation, list of required features
//
// and waits for a reply: lines of text, of which those that begin with "@nix " are messages in JSON, those that begin
// with "# " the reply, and all others are shown to the user. The reply is one of
//
//	# decline               build it here, if you can; the next "try" follows
//	# decline-permanently   and ask no more, for this client's connection
//	# postpone              ask again in five seconds (build-poll-interval), or when a build has ended
//	# accept                and, on the next line, the machine's name for people
//
// After "# accept" Nix sends the list of the paths that the build needs, the list of the outputs that are wanted, and
// closes the pipe. The hook puts the outputs into the local store, whose locks for them Nix holds, and exits with 0. The
// end of its files 1 and 2 is the end of the build. Nix kills a hook's process group without warning.
//
// While Nix waits for the reply its whole process waits. A hook that exits without one makes the whole of what the client
// wanted fail, not this build alone. So Serve replies within a deadline, whatever goes wrong, and when it no longer
// understands what Nix says it replies "# decline-permanently": it could not find the next "try" to answer.
//
// # Delegation
//
// To accept a build, Serve starts the same Nix's build-remote, tells it the same settings but for `builders`, which is the
// one machine that was chosen, and the same "try". What build-remote replies goes to Nix, except that the machine's name
// is the one from the [Answer] and that "# decline-permanently" becomes "# decline": build-remote says so when it finds no
// machine in the list, but another answer may name one. Then what Nix says is copied to build-remote, what it says to Nix,
// and its exit status is ours. So outputs, signatures and locks are never ours to handle, and memory is bounded.
//
// build-remote is in the same process group, has files 4 and 5 but neither 0, 1 nor 2 of the hook's, and is killed with it
// (on Linux, even if the hook is killed alone). What build-remote has started sees the end of its own files then.
package hook
