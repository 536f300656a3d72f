// Package offload decides where a Nix build runs.
//
// Most callers want [Pick]: it ranks machines for a [Request] and says what to answer Nix.
// It is pure: no clock, no I/O, no state, the same answer for the same question, whatever order the machines come in.
// The package knows the standard library alone. What it is asked about comes from packages beside it:
//
//	offload/machines  [Machine] from Nix's builders syntax, /etc/nix/machines and TOML
//	offload/drv       [Request] from a .drv file
//	offload/host      [Readings] from /proc, here or by one command over SSH
//	offload/history   [Estimate] and the machines' speeds from past builds, in SQLite; keeps [Decision] records
//
// # The answer
//
// Nix asks its build hook about one derivation at a time, and whether it is willing to build it itself right now.
//
//	[Accept]    the hook builds it on the machine that was chosen
//	[Decline]   Nix builds it here, waits for one of its own slots, or fails if it may not build here at all
//	[Postpone]  Nix asks again, after five seconds or when one of its builds ends
//
// Decline is never answered for want of a passing thing (a slot, memory, a builder that is down) while this machine
// can't build the derivation: that would fail a build that waiting saves.
//
// # The cost
//
// A machine that may take the build gets an expected cost in seconds, the sum of named terms ([Term]):
// the wait for a slot, the inputs' bytes still missing there, the build itself as long as it takes on that machine under
// its present load, the outputs' way back, and supplements for what is not known.
// The cheapest wins; see [Policy] for the figures, and docs/decisions for why it is seconds and not points.
// This machine is a candidate like the others, without transfers.
//
// A machine that may not take it gets a [Refusal]. Some pass by themselves ([Refusal.Passing]), others don't.
// When passing refusals alone have kept a build waiting for [Policy.Patience], Nix's own choice ([PlainFormula]) is taken
// in their stead: no build that plain Nix would do hangs or fails for our carefulness.
package offload
