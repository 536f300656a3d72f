// Package host takes a machine's readings: what this machine, or one over SSH, measured of itself.
//
// [Read] takes those of this machine. [Script] is a command for any other's shell, and [Parse] reads what it prints.
// Both go through the same parsers, and neither fails: what can't be had or makes no sense is unknown.
// A key that is restricted to Nix's protocols answers the command with something else, or nothing: all is unknown.
//
// # What is printed
//
// Sections begin with a line "@@ " and a name; the last is @@ end. What comes before the first is ignored.
// Unknown sections are, too.
//
//	cpu, memory, io   /proc/pressure/…
//	loadavg, meminfo  the files in /proc
//	cores             how many processors are online
//	store, build      df -Pk and df -Pi of the store and of the folder that builds work in
//	users             the names of users with processes, one a line: each of Nix's build users is a running build
//	power             a line for each power supply: its type, online, capacity, scope and status, - for what it hasn't got
//	nix               nix-store --version
//	sysctl            on macOS: hw.memsize, vm.loadavg
//
// github.com/prometheus/procfs reads the same files, but only below a folder: what came over SSH would first have
// to be written to one.
package host
