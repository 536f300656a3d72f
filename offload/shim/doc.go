// Package shim does a build on a builder, in the place that Nix takes for the builder's own daemon.
//
// [Serve] answers a stock Nix that was told `ssh-ng://localhost?remote-program=PROGRAM`, which it does without SSH: it starts
// PROGRAM --stdio and speaks the worker protocol with it. What Nix says is answered here, for this process reads the same
// store: all inputs are said to be there, so Nix sends none. When Nix asks for the build, a builder is chosen by a [Desk], the
// inputs that it lacks are copied to it from this machine's store, it builds, and Nix fetches the outputs through here. Every
// write to this machine's store is Nix's own.
//
// # What goes wrong
//
// A build is given to another builder when its machine is lost, hangs, has no room left or refuses what it is asked, for all
// that the build needs is here. What a builder says of the build itself (it failed, it was silent for too long) is final.
// Nix enforces neither max-silent-time nor timeout of a build that its hook took: so the builder's daemon is told both, and
// ten seconds later they are enforced here. A build that says nothing for [Options.Stall], while no bytes move and the
// machine, by its readings, does nothing, is begun elsewhere.
//
// The desk may fail as a builder may: a build whose desk is gone begins again when there is one.
package shim
