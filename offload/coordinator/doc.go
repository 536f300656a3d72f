// Package coordinator knows the builders and what runs on them, and says where builds go.
//
// There is one [Coordinator] for a machine, in a process that lives long. It is the [hook.Decider] that build hooks ask, and
// the [shim.Desk] that gives shims their builders: see package shim for how a build is done. [NewHandler] serves both over
// HTTP on a unix socket, and what people want to see and set; [Client] is the other end.
//
// # Leases
//
// A lease is a build that was given to a machine. It counts against the machine's slots and memory from the decision on. It
// ends when its build has ended, with the connection of the shim that took it, or by itself if none came: nobody has to give
// it back, for Nix kills hooks without warning. Where an output was built stays known for ten minutes, because Nix before
// 2.34 makes a new connection for each output that it fetches.
//
// # What is kept
//
// Builds and decisions are in the history, if there is one. All else is forgotten with the process, and learned again:
// a coordinator that is killed and started anew takes up where builds ask it, and leaves of the old one what they no longer
// know.
package coordinator
